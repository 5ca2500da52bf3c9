"""Agents that know nothing of us call models through `supervisor up`, before the real gate."""

import json
import os
import signal
import subprocess
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
        await until(lambda: all(out.exists() for out in outs), "both have called")
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
        with anyio.fail_after(120):
            assert await process.wait() == 0
    leaks = [file for file in files_of(tmp_path) if CANARY.encode() in file.read_bytes()]
    assert leaks == []


CALLS_ON = """
    import pathlib, sys, time
    import openai

    HI = [{"role": "user", "content": "hi"}]
    gpt = openai.OpenAI(max_retries=0)
    out = pathlib.Path(sys.argv[1])
    while not pathlib.Path(sys.argv[2]).exists():
        try:
            gpt.chat.completions.create(model="plain", messages=HI, max_tokens=5)
            said = "answered"
        except openai.APIConnectionError:
            said = "nobody there"
        with out.open("a") as file:
            print(said, file=file)
        time.sleep(0.02)
"""


async def test_a_killed_proxy_comes_back_on_its_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    program, out, end = tmp_path / "caller.py", tmp_path / "out", tmp_path / "end"
    program.write_text(textwrap.dedent(CALLS_ON))
    async with provider() as stub:
        declared = crew(tmp_path, stub) | {"budget": {}}
        program.write_text(textwrap.dedent(CALLS_ON))
        declared["agents"] = {"ann": {"run": ["python", str(program), str(out), str(end)]}}
        declared["model_proxy"] = {"upstreams": {"openai": {"url": f"{stub.url}/v1"}}, "max_output_tokens": 5}
        async with up(tmp_path, declared) as (_, process):

            def said(word: str) -> int:
                return out.read_text().count(word) if out.exists() else 0

            await until(lambda: said("answered"), "it is answered")
            os.kill(await until(lambda: proxy_pid(process.pid), "the proxy runs"), signal.SIGKILL)
            await until(lambda: said("nobody"), "it is missed")
            before = said("answered")
            await until(lambda: said("answered") > before, "it is answered again")
            end.touch()
            with anyio.fail_after(120):
                assert await process.wait() == 0
    assert "the model proxy died (killed by signal 9)" in (tmp_path / "up.log").read_text()


def proxy_pid(host: int) -> int:
    """The proxy among the processes of this host."""
    told = subprocess.run(["ps", "-ewwo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()[1:]]
    below = {host}
    for _ in range(3):
        below |= {int(pid) for pid, parent, _ in rows if int(parent) in below}
    found = [int(pid) for pid, _, args in rows if int(pid) in below and " model-proxy " in args and "-m" in args]
    return max(found, default=0)
