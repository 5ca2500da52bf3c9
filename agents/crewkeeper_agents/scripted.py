"""Scripted agents: play a `Script` as an agent, for demos, scenarios and tests that need no model and no code.

`python -m crewkeeper_agents.scripted SCRIPT` where SCRIPT is JSON text or `@file`.
"""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

from crewkeeper_agents import script as s
from crewkeeper_agents.agent import Agent
from crewkeeper_bus.errors import (
    BusError,
    Cancelled,
    ConfigError,
    PeerGone,
    Refused,
    Timeout,
    ToolRefused,
    WouldDeadlock,
)

if TYPE_CHECKING:
    from crewkeeper_bus.client import Client
    from crewkeeper_bus.serving import Request

log = structlog.get_logger()

BARRIER_POLL_S: Final = 0.02

_CAUGHT: Final[dict[str, type[BusError] | tuple[type[BusError], ...]]] = {
    "would_deadlock": WouldDeadlock,
    "peer_gone": PeerGone,
    "cancelled": Cancelled,
    "timeout": Timeout,
    "refused": Refused,
    "any": (WouldDeadlock, PeerGone, Cancelled, Timeout, Refused),
}
"""What `catch` catches; never `Killed`."""


class ScriptFailed(Exception):  # noqa: N818 - the step's word
    """A `fail` step was played."""


def agent_of(script: s.Script, name: str) -> Agent:
    """The agent that plays a script.

    Args:
        script: Parsed.
        name: Its name where neither the environment nor the script gives one.

    Raises:
        SubjectError: The name cannot be a subject token.
    """
    agent = Agent(script.name or name, leave_when_done=script.leave_when_done)
    for verb, steps in script.handlers.items():
        agent.handler(verb)(_handler(steps))
    if script.main:
        goes_on = script.on_error == "continue"

        async def main(crew: "Client") -> None:
            await Player(crew, goes_on_after_deadlock=goes_on).perform(script.main)

        agent.main(main)
    return agent


def _handler(steps: s.Steps) -> "Callable[[Client, Request], Awaitable[None]]":
    async def handle(crew: "Client", request: "Request") -> None:
        await Player(crew, request=request).perform(steps)

    return handle


class Player:
    """Plays the steps of main or of one handler run."""

    def __init__(
        self, crew: "Client", *, request: "Request | None" = None, goes_on_after_deadlock: bool = False
    ) -> None:
        self.crew = crew
        self.request = request
        self.goes_on_after_deadlock = goes_on_after_deadlock
        self.calls: dict[str, Any] = {}
        self.activities: anyio.abc.TaskGroup | None = None

    async def perform(self, steps: s.Steps) -> None:
        """Play all steps, and return when the activities they started have ended.

        Raises:
            ScriptFailed: A `fail` step was played.
            BusError: A step ended so and nothing caught it.
        """
        if not any(isinstance(step, s.Task) for step in s.walk(steps)):
            await self.play(steps)
            return
        try:
            async with anyio.create_task_group() as self.activities:
                await self.play(steps)
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def play(self, steps: s.Steps) -> None:
        """Play a list of steps, one after the other."""
        for step in steps:
            try:
                await _PLAYS[type(step)](self, step)
            except WouldDeadlock as ring:
                if not self.goes_on_after_deadlock:
                    raise
                log.warning("would_deadlock", step=type(step).__name__, path=ring.path, finding=ring.finding)

    async def _ask(self, step: s.Ask) -> None:
        await self.crew.ask(step.to, step.body, verb=step.verb, timeout_s=step.timeout_s)

    async def _ask_all(self, step: s.AskAll) -> None:
        await self.crew.ask_all(_calls(step.of), timeout_s=step.timeout_s)

    async def _ask_any(self, step: s.AskAny) -> None:
        await self.crew.ask_any(_calls(step.of), timeout_s=step.timeout_s)

    async def _gather(self, step: s.Gather) -> None:
        await self.crew.gather(step.k, _calls(step.of), timeout_s=step.timeout_s)

    async def _tell(self, step: s.Tell) -> None:
        await self.crew.tell(step.to, step.body)

    async def _receive(self, step: s.Receive) -> None:
        senders = list(step.from_) if isinstance(step.from_, tuple) else step.from_
        await self.crew.receive(from_=senders, timeout_s=step.timeout_s)

    async def _lock(self, step: s.Lock) -> None:
        async with self.crew.lock(step.name, mode=step.mode):
            await self.play(step.do)

    async def _semaphore(self, step: s.Semaphore) -> None:
        async with self.crew.semaphore(step.name, capacity=step.capacity, units=step.units):
            await self.play(step.do)

    async def _ask_human(self, step: s.AskHuman) -> None:
        await self.crew.ask_human(step.text, who=step.who, timeout_s=step.timeout_s)

    async def _tool(self, step: s.Tool) -> None:
        try:
            await self.crew.call_tool(step.name, step.args, call_id=step.call_id, limit_s=step.timeout_s)
        except ToolRefused as refused:
            log.info("script.tool_refused", tool=step.name, code=refused.code, text=refused.text)
            raise
        log.info("script.tool_ran", tool=step.name)

    async def _call(self, step: s.Call) -> None:
        self.calls[step.as_] = await self.crew.call(step.to, step.body, verb=step.verb)

    async def _await(self, step: s.Await) -> None:
        for name in step.calls:
            if name not in self.calls:
                raise ScriptFailed(f"call {name!r} was not made: the step that makes it did not get there")
            await self.calls[name].answer()

    async def _task(self, step: s.Task) -> None:
        assert self.activities is not None, "perform opens the group where a script has tasks"
        self.activities.start_soon(self._activity, step)

    async def _activity(self, step: s.Task) -> None:
        # A player of its own: what `catch` changes in one activity must not change the others.
        player = Player(self.crew, request=self.request, goes_on_after_deadlock=self.goes_on_after_deadlock)
        player.calls = self.calls
        player.activities = self.activities
        async with self.crew.task(step.name):
            await player.play(step.do)

    async def _log(self, step: s.Log) -> None:
        log.info("script.log", text=step.text)

    async def _progress(self, step: s.Progress) -> None:
        await self.crew.progress(step.text)

    async def _usage(self, step: s.Usage) -> None:
        await self.crew.report_usage(
            model=step.model,
            input_tokens=step.input_tokens,
            output_tokens=step.output_tokens,
            cost_microusd=step.cost_microusd,
        )

    async def _checkpoint(self, step: s.Checkpoint) -> None:
        await self.crew.checkpoint()

    async def _sleep(self, step: s.Sleep) -> None:
        await self.crew.sleep(step.for_s)

    async def _work(self, step: s.Work) -> None:
        await anyio.sleep(step.for_s)

    async def _repeat(self, step: s.Repeat) -> None:
        for _ in range(step.times):
            await self.play(step.do)
            await anyio.lowlevel.checkpoint()  # a loop without waits must not starve the heartbeat

    async def _reply(self, step: s.Answer) -> None:
        assert self.request is not None, "the parser lets `reply` stand only in handlers"
        await self.request.reply(step.value)

    async def _fail(self, step: s.Fail) -> None:
        raise ScriptFailed(step.text)

    async def _exit(self, step: s.Exit) -> None:
        await self.crew.flush()  # what was said before is said; what comes after, `Left` too, is not
        os._exit(step.code)

    async def _catch(self, step: s.Catch) -> None:
        goes_on, self.goes_on_after_deadlock = self.goes_on_after_deadlock, False
        try:
            await self.play(step.do)
        except _CAUGHT[step.error] as error:
            log.info("script.caught", error=type(error).__name__)
            self.goes_on_after_deadlock = goes_on
            await self.play(step.then)
        finally:
            self.goes_on_after_deadlock = goes_on

    async def _flood(self, step: s.Flood) -> None:
        for _ in range(step.count):
            await self.crew.tell(step.to, step.body)

    async def _publish_raw(self, step: s.PublishRaw) -> None:
        # On the agent's own connection: with another it would be taken for somebody else who has its credentials.
        await self.crew._membership.publish_raw(
            step.subject, step.payload
        )  # the client would refuse to say such things

    async def _barrier(self, step: s.Barrier) -> None:
        path = Path(step.file)
        with anyio.move_on_after(step.timeout_s):
            # Looking takes microseconds, a thread for it or a watcher would take more.
            while not path.exists():  # noqa: ASYNC110, ASYNC240
                await anyio.sleep(BARRIER_POLL_S)
            return
        raise ScriptFailed(f"barrier: {step.file} did not appear within {step.timeout_s:g} s")


def _calls(ones: Sequence[s.One]) -> list[tuple[str, Any, str]]:
    return [(one.to, one.body, one.verb) for one in ones]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group, so that callers and `catch` see it as if it had been raised alone."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


_PLAYS: Final[dict[type, Callable[[Player, Any], Awaitable[None]]]] = {
    s.Sleep: Player._sleep,
    s.Work: Player._work,
    s.Ask: Player._ask,
    s.AskAll: Player._ask_all,
    s.AskAny: Player._ask_any,
    s.Gather: Player._gather,
    s.Tell: Player._tell,
    s.Receive: Player._receive,
    s.Lock: Player._lock,
    s.Semaphore: Player._semaphore,
    s.AskHuman: Player._ask_human,
    s.Tool: Player._tool,
    s.Call: Player._call,
    s.Await: Player._await,
    s.Task: Player._task,
    s.Log: Player._log,
    s.Progress: Player._progress,
    s.Usage: Player._usage,
    s.Checkpoint: Player._checkpoint,
    s.Repeat: Player._repeat,
    s.Answer: Player._reply,
    s.Fail: Player._fail,
    s.Exit: Player._exit,
    s.Catch: Player._catch,
    s.Flood: Player._flood,
    s.PublishRaw: Player._publish_raw,
    s.Barrier: Player._barrier,
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the scripted agent that the command line gives; never returns. Exit status as `Agent.run`."""
    parser = argparse.ArgumentParser(
        prog="python -m crewkeeper_agents.scripted",
        description="Play a script as an agent. Where to connect and as whom is in the environment (CREWKEEPER_*).",
        epilog=f"Kinds of steps: {', '.join(s.FORMS)}.",
    )
    parser.add_argument("script", metavar="SCRIPT", help="JSON text, or @ and the path of a JSON file")
    options = parser.parse_args(argv)
    try:
        agent = agent_of(s.read_argument(options.script), "scripted")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a usage error, before there is a log
        raise SystemExit(2) from None
    agent.run()


if __name__ == "__main__":
    main()
