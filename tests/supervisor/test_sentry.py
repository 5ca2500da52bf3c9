"""What servers see and refuse, and whom it is held against."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

import anyio
import pytest

from crewkeeper_supervisor.shell.sentry import Sentry
from crewkeeper_supervisor.shell.server_log import LINE_MAX_BYTES, Denied, ServerLog, denied
from support.bus import until
from support.login_stage import RUN, Stage, login_stage

HEAD = b"[7] 2026/11/22 15:42:58.362189 [ERR] 127.0.0.1:51094 - cid:23 - "


@pytest.mark.parametrize("account", [b"CREWS", b"ACGK7D5A/CREWS"])
def test_a_denial_is_read_with_its_user(account):
    line = HEAD + b'"v1:py:n" - "%b/user:r1.a" - Publish Violation - Subject "x.y"' % account
    assert denied(line) == Denied("r1.a", "publish", 'Subject "x.y"')
    line = HEAD + b'"%b/user:r1.a" - Subscription Violation - Subject ">", SID 2' % account
    assert denied(line) == Denied("r1.a", "subscription", 'Subject ">", SID 2')


@pytest.mark.parametrize(
    "line",
    [
        # What a client calls itself is quoted by the server, and must not be taken for the server's own words.
        HEAD + rb'"x\" - \"CREWS/user:r1.b\" - Publish Violation - Subject \"y" - authentication error',
        HEAD + b'authentication error - User "x" - "CREWS/user:r1.b" - Publish Violation - Subject "y"',
        HEAD.replace(b"ERR", b"INF") + b'"CREWS/user:r1.a" - Publish Violation - Subject "x.y"',
        b'"CREWS/user:r1.a" - Publish Violation - Subject "x.y"',
        HEAD + b'"CREWS/user:r1.a" - Client parser ERROR " - Publish Violation - ',
        b"\xff\xfe Violation - ",
        b"",
    ],
)
def test_nothing_else_is_taken_for_a_denial(line):
    assert denied(line) is None


def test_a_name_that_looks_like_a_denial_accuses_nobody_else():
    forged = rb'"v1:py:x\" - \"CREWS/user:r1.b\" - Publish Violation - Subject \"y"'
    line = HEAD + forged + b' - "CREWS/user:r1.a" - Publish Violation - Subject "z"'
    assert denied(line) == Denied("r1.a", "publish", 'Subject "z"')


@contextlib.asynccontextmanager
async def reading(log: ServerLog):
    got: list[bytes] = []
    async with anyio.create_task_group() as group:

        async def read() -> None:
            async with contextlib.aclosing(log.lines()) as batches:
                async for batch in batches:
                    got.extend(batch)

        group.start_soon(read)
        yield got
        group.cancel_scope.cancel()


async def test_a_log_is_read_from_its_end_on_and_over_rotations(tmp_path: Path):
    path = tmp_path / "server.log"
    path.write_bytes(b"old\n")
    log = ServerLog(path)
    async with reading(log) as got:
        await until(lambda: log._descriptor >= 0, "it is open")
        with path.open("ab") as stream:
            stream.write(b"one\ntw")
        await until(lambda: got == [b"one"], "a whole line")
        with path.open("ab") as stream:
            stream.write(b"o\nthree\n")
        path.rename(tmp_path / "server.log.1")
        path.write_bytes(b"four\n")
        await until(lambda: got == [b"one", b"two", b"three", b"four"], "all lines of both files")
    assert log.skipped_bytes == 0


async def test_a_log_that_is_made_later_is_read_from_its_beginning(tmp_path: Path):
    path = tmp_path / "server.log"
    log = ServerLog(path)
    async with reading(log) as got:
        await until(lambda: not log._from_end, "it has looked")
        path.write_bytes(b"one\n")
        await until(lambda: got == [b"one"], "the first line")


async def test_one_of_several_reads_and_another_takes_over(tmp_path: Path):
    path = tmp_path / "server.log"
    path.write_bytes(b"")
    holder = os.open(path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    log = ServerLog(path)
    async with reading(log) as got:
        path.write_bytes(b"of the other\n")
        os.close(holder)
        await until(lambda: log._descriptor >= 0, "it takes over")
        with path.open("ab") as stream:
            stream.write(b"of its own\n")
        await until(lambda: b"of its own" in got, "it reads")


async def test_what_comes_too_fast_or_without_an_end_is_skipped(tmp_path: Path, monkeypatch):
    path = tmp_path / "server.log"
    path.write_bytes(b"")
    monkeypatch.setattr("crewkeeper_supervisor.shell.server_log.BEHIND_MAX_BYTES", 1000)
    log = ServerLog(path)
    async with reading(log) as got:
        await until(lambda: log._descriptor >= 0, "it is open")
        with path.open("ab") as stream:
            stream.write(b"x" * 2000 + b"\n")
        await until(lambda: log.skipped_bytes == 2001, "it is skipped")
        with path.open("ab") as stream:
            stream.write(b"next\n")
        await until(lambda: got == [b"next"], "it goes on")
    log._split(b"y" * (LINE_MAX_BYTES + 1))
    assert log._rest == b""


class Watched:
    """A stage with a sentry at work."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def told(self, count: int) -> list[tuple[str, str, int]]:
        """What the run was told, once it has been told so much."""
        await until(lambda: self.has_told(count), f"{count} violations")
        return [(each.agent, each.what, each.count) for each in await self.stage.told()]

    async def has_told(self, count: int) -> bool:
        return sum(each.count for each in await self.stage.told()) >= count


@contextlib.asynccontextmanager
async def watched(tmp_path: Path):
    async with login_stage("operator", tmp_path) as stage, stage.serving(), anyio.create_task_group() as group:
        await stage.declare()
        log = tmp_path / "state" / "nats-server.log"
        sentry = Sentry(stage.system, stage.access, stage.violations, log=log)
        group.start_soon(sentry.work)
        await until(lambda: sentry._log._descriptor >= 0 and stage.system._listens, "it watches")
        await stage.system.connections("nobody")  # answered after its subscriptions are in force
        yield Watched(stage)
        group.cancel_scope.cancel()


@pytest.mark.live
async def test_denials_are_held_against_who_made_them(tmp_path: Path):
    async with watched(tmp_path) as those:
        own = (await those.stage.access.issue(RUN, "a")).credentials
        async with those.stage.knock(
            own.user, own.password, name='"CREWS/user:r1.b" - Publish Violation - "'
        ) as client:
            for _ in range(100):
                await client.publish(f"crew.{RUN}.ctl._.b.1", b"{}")
            await client.subscribe("crew.>")
            told = await those.told(101)
        assert {(agent, what) for agent, what, _ in told} == {("a", "denied")}
        assert sum(count for *_, count in told) == 101


@pytest.mark.live
async def test_a_flood_of_denials_is_told_in_few_words_and_hides_nobody_else(tmp_path: Path):
    count, every_s = 200_000, 1.0
    async with watched(tmp_path) as those:
        those.stage.violations._every_s = every_s
        flooder, other = [(await those.stage.access.issue(RUN, name)).credentials for name in ("a", "b")]
        began_s = time.monotonic()
        async with those.stage.knock(flooder.user, flooder.password) as client:
            frames = b"PUB crew.r1.ctl._.b.1 0\r\n\r\n" * 1000
            for _ in range(count // 1000):
                client._transport.write(frames)
                await client._transport.drain()
            await until(lambda: len(client.errors) >= count, "the server has refused all of it")
        async with those.stage.knock(other.user, other.password) as client:
            await client.publish(f"crew.{RUN}.ctl._.a.1", b"{}")
            await until(lambda: has_told_of("b", those.stage), "the other one is told of")
        told = [each for each in await those.stage.told() if each.agent == "a"]
        assert told
        # The server throws its log away faster than it can be read: so many were there at least.
        assert 0 < sum(each.count for each in told) <= count
        assert len(told) <= (time.monotonic() - began_s) / every_s + 2
        assert len(those.stage.violations._tallies) <= 2


async def has_told_of(agent: str, stage: Stage) -> bool:
    return any(each.agent == agent for each in await stage.told())


@pytest.mark.live
async def test_a_killed_agent_that_was_let_in_is_shown_out(tmp_path: Path):
    async with watched(tmp_path) as those:
        stage = those.stage
        own = (await stage.access.issue(RUN, "a")).credentials
        async with stage.knock(own.user, own.password) as client:
            await stage.access.set_state(RUN, "a", "killed", "test", 1)
            # As if it had come in just now, by a record that was read before.
            listed = (await stage.system.connections(own.user)).connections
            assert len(listed) == 1
            server = listed[0].server
            fact = b'{"server":{"id":"%b"},"client":{"id":%d,"user":"r1.a"}}' % (server.encode(), listed[0].cid)
            stage.system._take_event("$SYS.ACCOUNT.X.CONNECT", fact, None)
            with anyio.fail_after(120):
                await client.gone.wait()
        assert ("a", "revoked_login", 1) in await those.told(1)


@pytest.mark.live
async def test_a_connection_that_was_closed_for_what_came_on_it_is_told(tmp_path: Path):
    async with watched(tmp_path) as those:
        own = (await those.stage.access.issue(RUN, "a")).credentials
        async with those.stage.knock(own.user, own.password) as client:
            client._transport.write(b"NONSENSE\r\n")
            with anyio.fail_after(120):
                await client.gone.wait()
        assert await those.told(1) == [("a", "denied", 1)]
