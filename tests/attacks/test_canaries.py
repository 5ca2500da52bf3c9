"""Secrets, looked for in all that a run puts out: journal, ledger, buckets, logs, process lists, commands, crashes."""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import nats.errors
import pytest

from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell.nats_link import Link
from support.bus import LIMIT_S, until
from support.raw_nats import raw
from support.siege import OUTSIDERS, Siege, besieged, crew_file, join

pytestmark = pytest.mark.live

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"canary-of-the-webhook-" + secrets.token_bytes(12)).decode()
ENVIRONMENT_SECRET = "canary-of-the-environment-" + secrets.token_hex(12)
JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")
SEED = re.compile(rb"S[OAUNCX][A-Z2-7]{54,}")

PRIVATE = ("server.json", "nats-server.conf", "keys/*", "runs/*/credentials/*.json", "jwt/*", "resolver/*")
"""Files that hold secrets on purpose, readable by their owner only."""

CRASHING = """
import structlog
from crewkeeper_agents import Agent

agent = Agent("crasher")

@agent.main
async def main(crew):
    settings = crew._membership.settings
    link = crew._membership._transport
    password = settings.password
    structlog.get_logger().warning("canary.settings", settings=settings, link=link, crew=crew)
    raise RuntimeError("deliberately raised")

agent.run()
"""

BROKEN_CONTROLLER = """
import sys
from crewkeeper_supervisor.shell import controller, powers
from crewkeeper_supervisor.cli.main import main

async def broken(self, drain):
    authority, place = self._power, self._link.place
    credentials = place.credentials if hasattr(place, "credentials") else place
    from crewkeeper_supervisor.shell.logbook import logger
    try:
        raise RuntimeError(f"deliberately raised: {place!r} {credentials!r} {self._link!r}")
    except RuntimeError:
        logger().exception("canary.raised", place=place, credentials=credentials)
        raise

controller._Controller.work = broken
sys.argv = ["supervisor", "serve", "--state", sys.argv[1]]
main()
"""


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    directory = tmp_path_factory.mktemp("canaries")
    crew = crew_file(directory / "gate")
    crew["agents"]["keeper"]["env"] = {"API_KEY": "${CANARY_KEY}"}
    crew["agents"]["crasher"] = {
        "run": [sys.executable, "-c", CRASHING],
        "restart": {"policy": "temporary"},
    }
    crew["escalate"] = [{"webhook": "${OPS_WEBHOOK}", "secret": "${OPS_WEBHOOK_SECRET}"}]
    crew["responses"] = {"crash": {"do": ["warn", "escalate"]}, "malformed": {"do": ["warn", "escalate"]}}
    environ = {
        "OPS_WEBHOOK": "http://127.0.0.1:9/hook",
        "OPS_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "CANARY_KEY": ENVIRONMENT_SECRET,
    }
    with besieged(directory, crew, environ) as running:
        yield running


def canaries(siege: Siege) -> dict[str, bytes]:
    """Every secret there is, by what it is."""
    found = {"webhook secret": WEBHOOK_SECRET.encode(), "environment secret": ENVIRONMENT_SECRET.encode()}
    found["bare webhook secret"] = WEBHOOK_SECRET.removeprefix("whsec_").encode()
    for agent in OUTSIDERS:
        password = siege.credentials(agent).password
        found[f"secret of {agent}"] = password.partition("-")[2].encode() or password.encode()
    for process in processes_of(siege):
        environ = dict(word.partition(b"=")[::2] for word in _read(process / "environ").split(b"\0"))
        if password := environ.get(b"CREWKEEPER_PASSWORD"):
            name = environ.get(b"CREWKEEPER_AGENT", b"?").decode()
            found[f"secret of {name}"] = password.partition(b"-")[2] or password
    for file in [siege.state / "server.json", *(siege.state / "keys").glob("*")]:
        for seed in SEED.findall(file.read_bytes()):
            found[f"seed in {file.name}: {seed[:2].decode()}{len(found)}"] = seed
    return found


def processes_of(siege: Siege) -> list[Path]:
    """Processes whose environment names this siege's state or run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"CREWKEEPER_RUN={siege.run}\0".encode() in environ:
            found.append(process)
    return found


def command_lines(siege: Siege) -> bytes:
    """What everybody on this machine can read of the processes that have to do with a siege."""
    marks = str(siege.state).encode(), siege.run.encode()
    every = [(_read(each / "cmdline"), _read(each / "environ")) for each in Path("/proc").glob("[0-9]*")]
    return b"\n".join(line for line, environ in every if any(mark in line + environ for mark in marks))


def clean(what: str, data: bytes, secret: dict[str, bytes]) -> None:
    """Assert that no secret is in some output."""
    for name, value in secret.items():
        assert value not in data, f"the {name} is in {what}: {data[max(0, data.index(value) - 200) :][:300]!r}"
    found = JWT.search(data) or SEED.search(data)
    assert found is None, f"a credential is in {what}: {found.group()[:40]!r}"


async def stored(link: Link) -> dict[str, bytes]:
    """Everything that any stream holds, subjects, headers and payloads."""
    held = {}
    for stream in await link.js.streams_info():
        name, parts = str(stream.config.name), []
        for seq in range(stream.state.first_seq, stream.state.last_seq + 1):
            try:
                message = await link.js.get_msg(name, seq)
            except (nats.errors.Error, nats.js.errors.NotFoundError):
                continue
            parts.append(f"{message.subject} {message.headers}".encode() + (message.data or b""))
        held[f"stream {name}"] = b"\n".join(parts)
    return held


async def misbehave(siege: Siege, link: Link) -> None:
    """Have everything said that quotes what it is about."""
    own = siege.credentials("eve")
    async with raw(own) as eve:
        join(siege, eve, "eve")
        eve.pub(siege.subject("note", "eve", "_", "bad"), b"not a message")
        eve.pub(siege.subject("ctl", "_", "bob"), b"{}")
        eve.sub("out.>")
        assert await eve.sync()
    await siege.finding(link, "malformed", "eve")

    async def crashed() -> bool:
        return any(i.finding.kind == "crash" for i in (await siege.fold(link)).supervisor.incidents.values())

    await until(crashed, "the crash of the agent is told")


COMMANDS = (
    ("ps", "-o", "json"),
    ("ps", "-a"),
    ("agent", "ls", "-o", "json"),
    ("agent", "describe", "eve", "-o", "json"),
    ("agent", "logs", "crasher"),
    ("graph",),
    ("events",),
    ("events", "-o", "jsonl"),
    ("incidents", "ls", "-o", "json"),
    ("questions", "ls", "-o", "json"),
    ("doctor",),
    ("doctor", "-o", "json"),
    ("creds", "ls"),
    ("creds", "ls", "-o", "json"),
)


async def test_no_output_has_a_secret(siege: Siege, capfd: pytest.CaptureFixture[str]):
    async def said(*arguments: str) -> tuple[int, str]:
        """The exit status of a command, run in this process, and all that it writes."""
        capfd.readouterr()
        code = await anyio.to_thread.run_sync(run, [*arguments, "--state", str(siege.state)])
        return code, "".join(capfd.readouterr())

    async with siege.link() as link:
        await misbehave(siege, link)
        secret = canaries(siege)
        assert len(secret) >= 8, sorted(secret)
        for name, data in (await stored(link)).items():
            clean(name, data, secret)
        lines = command_lines(siege)
        assert str(siege.state).encode() in lines, "the processes were not looked at"
        clean("the process list", lines.replace(CRASHING.encode(), b""), secret)
    for arguments in COMMANDS:
        code, output = await said(*arguments)
        assert code in (0, 1), (arguments, output)
        assert output, arguments
        clean(" ".join(arguments), output.encode(), secret)
    code, output = await said("agent", "describe", "nobody")
    assert "nobody" in output
    clean("an error", output.encode(), secret)


async def test_a_crash_of_an_agent_shows_no_secret(siege: Siege):
    log = siege.state / "runs" / siege.run / "logs" / "crasher.log"
    await until(lambda: log.exists() and b"deliberately raised" in log.read_bytes(), "the agent has crashed")
    data = log.read_bytes()
    assert b"Traceback" in data
    assert b"canary.settings" in data
    clean("the agent's crash", data, canaries(siege))


async def test_a_crash_of_the_controller_shows_no_secret(siege: Siege):
    def crash() -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-c", BROKEN_CONTROLLER, str(siege.state)]
        return subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)

    ran = await anyio.to_thread.run_sync(crash)
    assert b"deliberately raised" in ran.stdout + ran.stderr
    assert b"Traceback" in ran.stdout + ran.stderr
    clean("the controller's crash", ran.stdout + ran.stderr, canaries(siege))


async def test_the_files_that_hold_secrets_are_private_and_few(siege: Siege):
    secret = canaries(siege)
    assert siege.state.stat().st_mode & 0o077 == 0
    holding = []
    # Files come and go while it runs: `rglob` would fail at a folder that goes.
    files = [Path(folder, name) for folder, _, names in os.walk(siege.state) for name in names]
    for file in files:
        if not file.is_file() or any(file.match(pattern) for pattern in PRIVATE):
            continue
        data = _read(file)
        if any(value in data for value in secret.values()) or SEED.search(data):
            holding.append(str(file.relative_to(siege.state)))
    assert holding == []
    for pattern in PRIVATE[:4]:
        for file in siege.state.glob(pattern):
            assert file.stat().st_mode & 0o077 == 0, file
            assert file.parent.stat().st_mode & 0o077 == 0, file.parent
    clean("what `up` printed", siege.log.read_bytes(), secret)


async def test_agents_see_no_secret_but_their_own(siege: Siege):
    secret = canaries(siege)
    looked = 0
    for process in processes_of(siege):
        environ = _read(process / "environ")
        name = re.search(rb"CREWKEEPER_AGENT=([^\0]*)", environ)
        if name is None:
            continue
        looked += 1
        for what, value in secret.items():
            own = what == f"secret of {name.group(1).decode()}" or (
                what == "environment secret" and name.group(1) == b"keeper"
            )
            assert own or value not in environ or what == "environment secret", f"{name.group(1)!r} is given the {what}"
    assert looked >= 3


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_the_search_finds_what_is_there():
    token = json.dumps({"password": "abc-" + "s" * 40}).encode()
    with pytest.raises(AssertionError, match="secret of eve"):
        clean("a log", token, {"secret of eve": b"s" * 40})
    with pytest.raises(AssertionError, match="a credential"):
        clean("a log", b"eyJ0eXAiOiJKV1QifQ.eyJzdWIiOiJVQSJ9.abcdefghijklmnop", {})
    with pytest.raises(AssertionError, match="a credential"):
        clean("a log", b"SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4", {})
