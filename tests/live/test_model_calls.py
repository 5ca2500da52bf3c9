"""Agents that know nothing of us call models through `supervisor up`, before the real gate."""

import json
import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest
from live_crews import the_run, up

from crewkeeper_bus import codec
from crewkeeper_bus.subjects import Kind
from crewkeeper_bus.tool_messages import SpendGranted, SpendRefused
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import Link, connect
from crewkeeper_supervisor.shell.place import Place
from support.bus import until
from support.stub_provider import Provider, provider

pytestmark = pytest.mark.live
CANARY = "sk-canary-0123456789abcdef"

AGENT = """
    import json, os, pathlib, sys, time
    from concurrent.futures import ThreadPoolExecutor
    import anthropic, openai

    HI = [{"role": "user", "content": "hi"}]
    gpt, claude = openai.OpenAI(), anthropic.Anthropic()

    def one(number):
        try:
            if number % 2:
                gpt.chat.completions.create(model="plain", messages=HI, max_tokens=5, user=str(number))
            else:
                claude.messages.create(model="plain", messages=HI, max_tokens=5)
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            return [error.status_code, str(error)]
        return [200, ""]

    with ThreadPoolExecutor(25) as pool:
        said = list(pool.map(one, range(25)))
    try:
        gpt.chat.completions.create(model="never-heard-of", messages=HI, max_tokens=5)
    except openai.APIStatusError as error:
        said.append([error.status_code, str(error)])
    out = pathlib.Path(sys.argv[1])
    out.with_suffix(".part").write_text(json.dumps([said, dict(os.environ)]))
    out.with_suffix(".part").replace(out)
    while not pathlib.Path(sys.argv[2]).exists():
        time.sleep(0.05)
"""


def crew(tmp_path: Path, stub: Provider) -> dict[str, Any]:
    program = tmp_path / "caller.py"
    program.write_text(textwrap.dedent(AGENT))
    run = {f"agent{n}": [str(tmp_path / f"out{n}.json"), str(tmp_path / "go")] for n in (1, 2)}
    return {
        "crew": "spenders",
        "agents": {name: {"run": ["python", str(program), *paths]} for name, paths in run.items()},
        "budget": {"usd": 5},
        "prices": {"plain": {"input": 0, "output": 200_000}},  # five tokens out are a dollar
        "responses": {"loop": {"do": ["observe"]}},
        "model_proxy": {
            "upstreams": {
                "openai": {"url": f"{stub.url}/v1", "key": "${OPENAI_API_KEY}"},
                "anthropic": {"url": stub.url, "key": "${SOME_KEY}"},
            }
        },
    }


def files_of(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


async def commands(link: Link, run: str) -> list[Any]:
    """What the gate has said to the model proxy."""
    found = []
    for entry in await journal.read_all(link, run):
        assert CANARY.encode() not in entry.payload
        if f".{Kind.CTL}._._model." in entry.subject:
            found.append(codec.decode_supervisor(Kind.CTL, entry.payload))
    return found


async def test_fifty_calls_of_two_agents_under_a_cap_of_five_dollars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("SOME_KEY", CANARY + "-2")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", CANARY + "-3")
    async with provider() as stub, up(tmp_path, crew(tmp_path, stub)) as (state, process):
        outs = [tmp_path / "out1.json", tmp_path / "out2.json"]
        await until(lambda: all(out.exists() for out in outs), "both have called", limit_s=60)
        said = [json.loads(out.read_text()) for out in outs]
        answers = [answer for each in said for answer in each[0][:25]]
        assert sorted(status for status, _ in answers) == [200] * 5 + [402] * 45
        assert all("answer with what you have" in text for status, text in answers if status == 402)
        assert all(each[0][25][0] == 403 and "price" in each[0][25][1] for each in said)
        assert len(stub.posted()) == 5
        assert {each.headers.get("authorization") or each.headers.get("x-api-key") for each in stub.posted()} <= {
            f"Bearer {CANARY}",
            f"{CANARY}-2",
        }
        for _, env in said:
            assert CANARY not in json.dumps(env)
            assert "SOME_KEY" not in env
            assert env["OPENAI_BASE_URL"].startswith("http://127.0.0.1:")
        async with connect(Place.find(state)) as link:
            run = (await the_run(link)).run
            told = await commands(link, run)
            assert sum(isinstance(each, SpendGranted) for each in told) == 5
            refused = {each.call for each in told if isinstance(each, SpendRefused)}
            assert len(refused) == 47
            assert not refused & {each.call for each in told if isinstance(each, SpendGranted)}
        (tmp_path / "go").touch()
        with anyio.fail_after(30):
            assert await process.wait() == 0
    leaks = [file for file in files_of(tmp_path) if CANARY.encode() in file.read_bytes()]
    assert leaks == []
