"""Policy on a crew that `supervisor up` runs: hooks that are asked, rules that change, secrets that are not stored."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from live_crews import the_run, up

from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place
from support.bus import LIMIT_S, until

pytestmark = pytest.mark.live

TOKEN = "gh" + "p_" + "aB3dE6gH9jK2mN5pQ8sTaB3dE6gH9jK2mN5p"
JUDGES = """
import time

def large(call):
    if call["args"]["n"] == 13:
        time.sleep(60)
    return "too much at once" if call["args"]["n"] > 100 else False
"""
TOOLS = """
def pay(n: int, note: str = "") -> str:
    return f"{n} {note}"
"""
BUYER = f"""
import asyncio, json, pathlib
from crewkeeper_agents import Agent
from crewkeeper_bus import ToolRefused

agent = Agent("buyer")
told = {{}}

async def attempt(crew, key, **args):
    try:
        told[key] = await crew.call_tool("pay", args)
    except ToolRefused as refused:
        told[key] = f"{{refused.reason}}: {{refused.text}}"

@agent.main
async def main(crew):
    await attempt(crew, "small", n=1, note="{TOKEN}")
    await attempt(crew, "large", n=500)
    await attempt(crew, "hung", n=13)
    await crew.tell("other", {{"token": "{TOKEN}"}})
    pathlib.Path("before").touch()
    while not pathlib.Path("changed").exists():
        await asyncio.sleep(0.02)
    await attempt(crew, "after", n=1)
    pathlib.Path("told.json").write_text(json.dumps(told))

if __name__ == "__main__":
    agent.run()
"""
OTHER = """
from crewkeeper_agents import Agent

agent = Agent("other")

@agent.main
async def main(crew):
    await crew.run_forever()

if __name__ == "__main__":
    agent.run()
"""
CREW: dict[str, Any] = {
    "crew": "held",
    "agents": {
        "buyer": {"run": "python buyer.py", "tools": ["pay"]},
        "other": {"run": "python other.py"},
    },
    "tools": {"pay": {"function": "shop:pay"}},
    "rules": [
        {"id": "large", "tools": ["pay"], "hook": "judges:large", "deadline": "4s", "do": "deny"},
        {"id": "clean", "tools": ["pay"], "do": "redact"},
        {"id": "trial", "tools": ["pay"], "when": "args.n < 5", "do": "deny", "shadow": True},
    ],
}


def supervisor(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", *words]
    env = {**os.environ, "CREWKEEPER_STATE": str(state)}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=LIMIT_S, check=False)


async def test_a_running_crew_is_held_to_its_rules_and_to_those_that_follow(tmp_path: Path) -> None:
    for name, text in (("judges", JUDGES), ("shop", TOOLS), ("buyer", BUYER), ("other", OTHER)):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "other.json").write_text(
        json.dumps({"rules": [{"id": "closed", "tools": ["pay"], "do": "deny", "because": "the shop is closed"}]})
    )
    (tmp_path / "wrong.json").write_text(json.dumps({"rules": [{"id": "x", "do": "deny", "when": "args.n >"}]}))
    async with up(tmp_path, CREW) as (state, _), connect(Place.find(state), name="test") as link:
        run = (await the_run(link)).run
        await until((tmp_path / "before").exists, "the first rules have decided")
        run_in = anyio.to_thread.run_sync
        wrong = await run_in(lambda: supervisor(state, "policy", "apply", run, str(tmp_path / "wrong.json")))
        assert wrong.returncode == 3, wrong.stderr
        shown = await run_in(lambda: supervisor(state, "policy", "show", run, "-o", "json"))
        view = json.loads(shown.stdout)
        done = {rule["id"]: rule["applied"] for rule in view["rules"]}
        # A hook that hangs is counted unless its end comes after the core's own limit.
        assert done.pop("large")["deny"] in (1, 2)
        assert done == {"clean": {"redact": 1}, "trial": {"would deny": 1}}
        applied = await run_in(
            lambda: supervisor(state, "policy", "apply", run, str(tmp_path / "other.json"), "--timeout", "150")
        )
        assert applied.returncode == 0, applied.stderr
        again = json.loads((await run_in(lambda: supervisor(state, "policy", "show", run, "-o", "json"))).stdout)
        assert [rule["id"] for rule in again["rules"]] == ["closed"]
        assert again["version"] != view["version"]
        assert again["version"] in applied.stdout
        (tmp_path / "changed").touch()
        file = tmp_path / "told.json"
        told = json.loads(await until(lambda: file.exists() and file.read_text(), "the other rules have decided"))
        entries = await journal.read_all(link, run)
    assert told["small"].startswith("1 [redacted:github_token:")
    assert told["large"].startswith("denied: ")
    assert "too much at once" in told["large"]
    assert told["hung"].startswith("denied: ")
    assert "the shop is closed" in told["after"]
    with_token = [entry.subject for entry in entries if TOKEN.encode() in entry.payload]
    # Arguments of tools are published as they are; everything that agents tell each other is not.
    assert [subject.split(".")[2] for subject in with_token] == ["tool"]
    digests = {part.split(b"]")[0] for entry in entries for part in entry.payload.split(b"[redacted:")[1:]}
    assert {each.rpartition(b":")[2] for each in digests} == {told["small"].rpartition(":")[2].rstrip("]").encode()}
