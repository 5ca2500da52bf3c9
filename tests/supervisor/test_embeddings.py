"""Embeddings: a real static model in a directory, made here; what is missing or broken is told, not guessed."""

import builtins
import json
from pathlib import Path

import pytest

from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell import embeddings

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.numpy")
tokenizers = pytest.importorskip("tokenizers")

VECTORS = {"sea": (1.0, 0.0), "ship": (0.8, 0.2), "law": (0.0, 1.0), "[UNK]": (0.0, 0.0)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    words = tokenizers.models.WordLevel({word: number for number, word in enumerate(VECTORS)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    safetensors.save_file({"embeddings": np.array(list(VECTORS.values()), np.float32)}, folder / "model.safetensors")
    return folder


def test_a_text_is_the_mean_of_its_words(model):
    embed = embeddings.load(model)
    assert embed("sea law") == pytest.approx([0.5, 0.5])
    assert embed("") == [0.0, 0.0]
    assert embed("sea " * 5000) == pytest.approx([1.0, 0.0])


def test_tables_may_be_shared_and_weighed(model):
    table = {
        "embeddings": np.array([[2.0, 0.0], [0.0, 2.0]], np.float16),
        "mapping": np.array([0, 0, 1, 1]),
        "weights": np.array([1.0, 0.5, 1.0, 0.0]),
    }
    safetensors.save_file(table, model / "model.safetensors")
    assert embeddings.load(model)("sea ship law") == pytest.approx([1.0, 2 / 3])


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", b"{", "cannot be read"),
        ("model.safetensors", b"junk", "cannot be read"),
        ("model.safetensors", "short", "a vector for each of 4 tokens"),
    ],
)
def test_what_is_wrong_with_a_model_is_told(model, file, content, told):
    if content is None:
        (model / file).unlink()
    elif content == "short":
        safetensors.save_file({"embeddings": np.zeros((2, 2), np.float32)}, model / file)
    else:
        (model / file).write_bytes(content)
    with pytest.raises(embeddings.EmbeddingsError, match=told):
        embeddings.load(model)


def test_without_the_extra_it_says_what_to_install(model, monkeypatch, capsys):
    real = builtins.__import__

    def absent(name, *rest):
        if name.partition(".")[0] == "tokenizers":
            raise ImportError(name="tokenizers")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    trace = model / "run.jsonl"
    trace.write_text(json.dumps({"i": 0, "from": "a", "kind": "message", "text": "sea"}))
    assert run(["analyze", "trace", str(trace), "--embeddings", str(model)]) == 3
    told = capsys.readouterr().err
    assert "pip install 'crewkeeper[embeddings]'" in told
    assert "--embeddings" in told


def test_a_trace_is_judged_with_them(model, capsys):
    said = [f"the sea and ship number{n} go to harbour{n} again with cargo{n}" for n in range(10)]
    said += [f"law{n} court{n} judge{n} appeal{n} law" for n in range(3)]
    trace = model / "run.jsonl"
    events = [{"i": 0, "from": "user", "kind": "message", "text": "ship goods over the sea"}]
    events += [{"i": n + 1, "from": "a", "kind": "llm", "text": text} for n, text in enumerate(said)]
    trace.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert run(["analyze", "trace", str(trace), "--embeddings", str(model), "-o", "jsonl"]) == 0
    assert [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()] == ["drift"]
