"""`supervisor analyze trace` and `supervisor import`: one line for each finding, nothing for a healthy run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.core.trace import TraceEvent
from crewkeeper_supervisor.core.trace_analysis import TraceFinding, TraceHeader

PAGE = Path(__file__).parents[2] / "docs" / "traces.md"


def written(folder: Path, name: str, *lines: Any) -> Path:
    file = folder / name
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def said(i: int, sender: str, to: str, text: str, **more: Any) -> dict[str, Any]:
    return {"i": i, "from": sender, "to": to, "kind": "message", "text": text, **more}


def called(i: int, answer: str, tool: str = "search", **args: Any) -> list[dict[str, Any]]:
    return [
        {"i": i, "from": "agent", "to": "tools", "kind": "tool_call", "tool": tool, "args": args, "text": str(args)},
        {"i": i + 1, "from": "tools", "to": "agent", "kind": "tool_result", "tool": tool, "text": answer},
    ]


LOOP = [
    event for n in range(4) for event in called(2 * n, "Error: the catalogue is closed today", q="tin orchard films")
]
HEALTHY = [event for n in range(6) for event in called(2 * n, f"page {n} of the catalogue", q="tin orchard", page=n)]


def found(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_finding_is_a_line_and_a_healthy_run_prints_nothing(tmp_path, capsys):
    healthy, loop = written(tmp_path, "healthy.jsonl", *HEALTHY), written(tmp_path, "loop.jsonl", *LOOP)
    assert run(["analyze", "trace", str(healthy)]) == 0
    assert capsys.readouterr().out == ""
    assert run(["analyze", "trace", str(healthy), str(loop), str(loop), "-o", "jsonl"]) == 0
    findings = found(capsys)
    assert len(findings) == 2
    assert list(findings[0]) == ["trace", "kind", "at", "onset", "agents", "period", "why"]
    assert findings[0] | {"why": ""} == {
        "trace": "loop", "kind": "loop", "at": 5, "onset": 2, "agents": ["agent"], "period": 1, "why": "",
    }  # fmt: skip


def test_the_other_formats(tmp_path, capsys):
    loop = written(tmp_path, "loop.jsonl", *LOOP)
    assert run(["analyze", "trace", str(loop), "-o", "json"]) == 0
    assert [one["kind"] for one in json.loads(capsys.readouterr().out)] == ["loop"]
    assert run(["analyze", "trace", str(written(tmp_path, "h.jsonl", *HEALTHY)), "-o", "table"]) == 0
    assert "nothing found" in capsys.readouterr().err


def test_the_session_on_the_page_is_what_is_printed(tmp_path, capsys, monkeypatch):
    text = PAGE.read_text()
    (example,) = re.findall(r"^```jsonl\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (session,) = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "orchard.jsonl").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for part in session.split("$ supervisor ")[1:]:
        command, _, output = part.partition("\n")
        assert run(command.split()) == 0
        assert capsys.readouterr().out.rstrip() == output.rstrip()


def test_the_page_lists_every_key():
    text = PAGE.read_text()
    keys = [one for one in TraceEvent.__struct_encode_fields__ if one != "args"]
    for key in (*keys, *TraceHeader.__struct_encode_fields__, *TraceFinding.__struct_encode_fields__):
        assert f"| `{key}` |" in text, key


def test_a_header_says_what_is_known(tmp_path, capsys):
    header = {
        "run": {
            "tools": ["search"],
            "outcome": {"must_mention": ["total"], "never": ["password"], "schema": {"type": "object"}},
        }
    }
    events = [*called(0, "x", "serch"), *called(2, "y", "find"), said(4, "agent", "user", "the password is swordfish")]
    assert run(["analyze", "trace", str(written(tmp_path, "run.jsonl", header, *events))]) == 0
    findings = found(capsys)
    assert [one["kind"] for one in findings] == ["misuse", "outcome", "outcome", "outcome"]
    assert "serch, find" in findings[0]["why"]
    assert "not as its schema says" in findings[3]["why"]


@pytest.mark.parametrize(
    ("lines", "said_"),
    [
        (["{nope"], ":1: is not JSON"),
        ([said(0, "a", "b", "x"), '{"i": 1}'], ":2: is no event"),
        ([said(0, "a", "b", "x", kind="song")], ":1: is no event"),
        (['{"run": {"objectiv": 1}}'], ":1: run: "),
    ],
)
def test_a_line_that_is_no_event_is_named(tmp_path, capsys, lines, said_):
    file = written(tmp_path, "bad.jsonl", *lines)
    assert run(["analyze", "trace", str(file)]) == 3
    error = capsys.readouterr().err
    assert f"{file}{said_}" in error


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", ": is empty"),
        (b"\n \n", ": is empty"),
        (b'{"i":0,"from":"a","kind":"message","text":"caf\xe9"}', ":1: is not JSON"),
        ('{"i":0,"from":"a","kind":"message"}'.encode("utf-16"), ":1: is not JSON"),
        (bytes(range(256)), ":1: is not JSON"),
        (b'{"resourceSpans": []}', "supervisor import"),
        (b'[{"name": "chat"}]', "supervisor import"),
        (b'{"i":0,"from":"a","kind":"tool_call","args":' + b"[" * 100_000, ":1: is not JSON"),
    ],
)
def test_foreign_files_are_told_apart(tmp_path, capsys, content, told):
    file = tmp_path / "foreign.jsonl"
    file.write_bytes(content)
    assert run(["analyze", "trace", str(file)]) == 3
    assert told in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_a_byte_order_mark_is_read_over(tmp_path, capsys):
    file = tmp_path / "marked.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join(json.dumps(event).encode() for event in LOOP))
    assert run(["analyze", "trace", str(file), "-o", "jsonl"]) == 0
    assert len(found(capsys)) == 1


def test_a_missing_file_is_said(tmp_path, capsys):
    assert run(["analyze", "trace", str(tmp_path / "none.jsonl")]) == 3
    assert "cannot be read" in capsys.readouterr().err


def test_declared_progress_and_polls_are_heeded(tmp_path, capsys):
    polls = [event | {"poll": True} for event in LOOP]
    steps = [*LOOP[:4], {"i": 8, "from": "agent", "kind": "message", "progress": True}, *LOOP[:4]]
    for name, events in (("polls", polls), ("progress", steps)):
        assert run(["analyze", "trace", str(written(tmp_path, f"{name}.jsonl", *events))]) == 0
        assert capsys.readouterr().out == ""


def span(trace: str, number: int, operation: str, **attributes: Any) -> dict[str, Any]:
    return {
        "context": {"trace_id": trace, "span_id": f"{trace}{number}"}, "start_time": number, "end_time": number + 1,
        "attributes": {"gen_ai.operation.name": operation, "gen_ai.agent.name": "agent", **attributes},
    }  # fmt: skip


def tool_spans(trace: str) -> list[dict[str, Any]]:
    call = {"gen_ai.tool.name": "search", "gen_ai.tool.call.arguments": '{"q": "tin orchard"}'}
    return [
        span(
            trace, 10 * n, "execute_tool", **call, **{"gen_ai.tool.call.result": "Error: the catalogue is closed today"}
        )
        for n in range(4)
    ]


def test_imported_spans_are_analysed(tmp_path, capsys):
    file = written(tmp_path, "spans.jsonl", *tool_spans("t1"))
    assert run(["import", str(file)]) == 0
    trace = tmp_path / "t1.jsonl"
    trace.write_text(capsys.readouterr().out)
    assert run(["analyze", "trace", str(trace)]) == 0
    assert [(one["trace"], one["kind"], one["onset"]) for one in found(capsys)] == [("t1", "loop", 2)]


def test_several_traces_are_chosen_or_written(tmp_path, capsys):
    file = written(tmp_path, "spans.json", json.dumps(tool_spans("t1") + tool_spans("t2")))
    assert run(["import", str(file)]) == 3
    assert "holds 2 traces: t1, t2" in capsys.readouterr().err
    assert run(["import", str(file), "--trace", "t2"]) == 0
    assert len(found(capsys)) == 8
    assert run(["import", str(file), "--folder", str(tmp_path / "out")]) == 0
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["t1.jsonl", "t2.jsonl"]


@pytest.mark.parametrize(
    ("content", "said_"),
    [
        ("{nope", "is not JSON"),
        ("[1]", "holds no spans"),
        ('{"resourceSpans": 5}', "holds no spans"),
        ('{"resourceSpans": []}', "holds no spans of generative AI"),
        ('{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "x"}]}]}]}', "holds no spans"),
    ],
)
def test_what_is_no_trace_is_said(tmp_path, capsys, content, said_):
    assert run(["import", str(written(tmp_path, "x.json", content))]) == 3
    assert said_ in capsys.readouterr().err
