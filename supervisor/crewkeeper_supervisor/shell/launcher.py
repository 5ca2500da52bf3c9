"""Launcher: one guarded child process, its environment and its log; when to start it again is not decided here.

A child leads a session and process group of its own, so signals reach its whole group and a Ctrl-C in the terminal
reaches only the host, which then ends its children in order. The guard makes sure that a child does not outlive a host
that was killed.
"""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
from msgspec import Struct

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.orphan_guard import kill_group, open_guarded, release
from crewkeeper_supervisor.core.crew import Agent, Crew, Redact
from crewkeeper_supervisor.shell.crew_model_proxy import withheld
from crewkeeper_supervisor.shell.crew_variables import names_in, resolve_env
from crewkeeper_supervisor.shell.logs import LogFile

CANNOT_START: Final = 127
"""Exit status reported for a command that could not be started, as shells do."""
REAP_LIMIT_S: Final = 10.0
"""Longest wait for a process that was sent SIGKILL, seconds; a stuck disk can hold it."""
LAST_WORDS_S: Final = 1.0
"""How long the log is read on after the process ended, seconds; a grandchild may hold the pipe open."""

_PYTHON: Final = ("python", "python3")
_OWN_PREFIX: Final = "CREWKEEPER_"
_PASSED_ON: Final = ("CREWKEEPER_TRACES",)
"""Our own variables that every child gets as they are."""


class Launch(Struct, frozen=True, kw_only=True):
    """Everything it takes to start one child."""

    name: str
    """What it is called in reports: the agent's name on the bus."""
    argv: tuple[str, ...]
    env: dict[str, str]
    """Its whole environment."""
    cwd: str = ""
    """Working directory; empty: the host's."""
    log: Path


def command_line(argv: Sequence[str]) -> tuple[str, ...]:
    """The command line to run: a bare `python` is the interpreter that runs the host, with all its packages."""
    first, *rest = argv
    return (sys.executable if first in _PYTHON else first, *rest)


def secrets_of(crew: Crew) -> frozenset[str]:
    """Names of the environment variables that only the supervisor may read: those its webhooks are made of."""
    hooks = crew.escalate
    texts = (text for hook in hooks for text in (hook.webhook, hook.secret, hook.previous_secret, hook.routing_key))
    return frozenset(names_in(*texts))


def tool_secrets_of(crew: Crew) -> frozenset[str]:
    """Names of the environment variables that only the crew's tools may read, each its own."""
    return frozenset(names_in(*(text for tool in crew.tools.values() for text in tool.env.values())))


def _inherited(crew: Crew, inherited: Mapping[str, str]) -> dict[str, str]:
    """What every child gets: no variable of ours, and none that is a secret of webhooks or tools."""
    secret = secrets_of(crew) | tool_secrets_of(crew) | withheld(crew.model_proxy)
    own = {name for name in inherited if name.startswith(_OWN_PREFIX) and name not in _PASSED_ON}
    return {name: value for name, value in inherited.items() if name not in own and name not in secret}


def service_environment(
    crew: Crew,
    run: str,
    credentials: Credentials | Path,
    inherited: Mapping[str, str],
    settings: Mapping[str, str | float],
) -> dict[str, str]:
    """The environment of one of the supervisor's services: inherited, without secrets, plus its settings.

    Args:
        crew: The crew it serves.
        run: The run.
        credentials: How it connects, or the file that says so from moment to moment.
        inherited: The host's environment.
        settings: Its own settings, by name without the prefix.
    """
    own = {**_access(credentials), "RUN": run, **settings}
    env = _inherited(crew, inherited) | {_OWN_PREFIX + name: str(value) for name, value in own.items() if value != ""}
    env["PYTHONUNBUFFERED"] = "1"
    return env


def environment(
    crew: Crew,
    agent: Agent,
    instance: str,
    run: str,
    credentials: Credentials | Path,
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """The environment of one agent: inherited, without our own variables and what is secret, plus its settings.

    Args:
        crew: The crew it belongs to.
        agent: Its declaration.
        instance: Its name on the bus.
        run: The run it works in.
        credentials: How it connects, or the file that says so from moment to moment.
        inherited: The host's environment.

    Raises:
        SettingMissing: A value of the agent's `env` names a variable that is not set.
    """
    env = _inherited(crew, inherited)
    for name, value in agent.env.items():
        env[name] = resolve_env(value, inherited, f"agents.{agent.name}.env.{name}")
    settings = {
        **_access(credentials),
        "RUN": run,
        "AGENT": instance,
        "ROLE": agent.name,
        "CONCURRENCY": agent.concurrency,
        "REENTRANT": agent.reentrant,
        "MAILBOX": agent.mailbox,
        "HEARTBEAT_S": crew.heartbeat_s,
        "PAYLOAD_BYTES": crew.payload_bytes,
        "REDACT": ",".join(redacted_words(crew.redact)),
        "REDACT_KEY": crew.redact.key,
    }
    env |= {_OWN_PREFIX + name: str(value) for name, value in settings.items() if value != ""}
    env["PYTHONUNBUFFERED"] = "1"  # a crash must not take the last lines of the log with it
    return env


def agent_launch(
    crew: Crew,
    agent: Agent,
    instance: str,
    run: str,
    access: Credentials | Path,
    directory: Path,
    inherited: Mapping[str, str],
) -> Launch:
    """What to start for one agent; `directory` is where the run's files are. The rest is as for `environment`.

    Raises:
        SettingMissing: As `environment`.
    """
    return Launch(
        name=instance,
        argv=command_line(agent.run),
        env=environment(crew, agent, instance, run, access, inherited),
        cwd=agent.cwd,
        log=directory / "logs" / f"{instance}.log",
    )


def stored_access(credentials: Credentials, directory: Path, name: str, *, always: bool = False) -> Credentials | Path:
    """How an agent connects: what it is given, or the file that says so where that changes, or `always`."""
    if not (credentials.jwt or always):
        return credentials
    folder = directory / "credentials"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    credentials.to_file(file)
    return file


def external_hint(run: str, instance: str, access: Credentials | Path) -> str:
    """What people are told of an agent that they start themselves; `access` is the file of its credentials."""
    return (
        f"{run}: start the external agent {instance} yourself, with CREWKEEPER_RUN={run} "
        f"CREWKEEPER_AGENT={instance} CREWKEEPER_CREDENTIALS={access}"
    )


def redacted_words(redact: Redact) -> tuple[str, ...]:
    """What an agent's client is told to replace."""
    if "client" not in redact.places:
        return ("none",)
    return (*redact.kinds, "arguments") if "arguments" in redact.places else redact.kinds


def _access(credentials: Credentials | Path) -> dict[str, str | float]:
    if isinstance(credentials, Path):
        return {"CREDENTIALS": str(credentials)}
    return {
        "URL": credentials.url,
        "USER": credentials.user,
        "PASSWORD": credentials.password,
        "SESSION_S": "" if credentials.session_s is None else credentials.session_s,
    }


class ChildProcess:
    """One process, once: `start`, then `wait` in one task, and `stop` or `kill` from any other.

    Attributes:
        pid: Process id, which is also its process group; 0 before `start`.
        code: Exit status, negative for a signal; None while it runs.
    """

    def __init__(self, launch: Launch) -> None:
        self.pid = 0
        self.code: int | None = None
        self._launch = launch
        self._process: anyio.abc.Process | None = None
        self._log: LogFile | None = None
        self._ended = anyio.Event()

    async def start(self) -> int:
        """Start it and return its pid.

        Raises:
            OSError: The command, its directory or its log is not there or not ours.
        """
        launch = self._launch
        log = LogFile(launch.log)
        try:
            self._process = await open_guarded(
                launch.argv,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=launch.cwd or None,
                env=launch.env,
            )
        except OSError as error:
            log.write(f"cannot start {launch.argv[0]}: {error}\n".encode())
            log.close()
            raise
        self._log = log
        self.pid = self._process.pid
        return self.pid

    async def wait(self) -> int:
        """Copy its output to the log until it ends, end what is left of its group, and return its exit status.

        To be called once. When cancelled, the whole group is killed first.
        """
        assert self._process is not None, "wait() before start()"
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._copy_output)
                code = await self._process.wait()
                self._signal(signal.SIGKILL)  # what it left behind in its group
                tasks.cancel_scope.deadline = anyio.current_time() + LAST_WORDS_S
        finally:
            if self._process.returncode is None:
                self._signal(signal.SIGKILL)
                with anyio.move_on_after(REAP_LIMIT_S, shield=True):
                    await self._process.wait()
            self.code = self._process.returncode if self._process.returncode is not None else -signal.SIGKILL
            self._ended.set()
            if self._log is not None:
                self._log.close()
            with anyio.move_on_after(LAST_WORDS_S, shield=True):
                await self._process.aclose()
            release(self.pid)
        return code

    async def stop(self, grace_s: float) -> None:
        """End it: SIGTERM to its group, SIGKILL after `grace_s` seconds; returns when it is gone.

        Needs `wait` to run in another task. Returns after REAP_LIMIT_S at the latest if even SIGKILL does not end it.
        """
        self._signal(signal.SIGTERM)
        with anyio.move_on_after(grace_s):
            await self._ended.wait()
        if not self._ended.is_set():
            self._signal(signal.SIGKILL)
            with anyio.move_on_after(REAP_LIMIT_S):
                await self._ended.wait()

    def kill(self) -> None:
        """Send SIGKILL to its group, and return at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid and self.code is None:  # never after the end: the number may come to mean another group
            kill_group(self.pid, number)

    async def _copy_output(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._log is not None
        async for chunk in self._process.stdout:
            self._log.write(chunk)
