"""Retention on a real server: a journal goes when its time has come and never before, and the audit knows why."""

import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from nats_process import crew, linked, until

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.core.crew import Retain
from crewkeeper_supervisor.shell import audit, audit_keys, controller, heads, journal, ledger, owner, source
from crewkeeper_supervisor.shell.controller import Settings
from crewkeeper_supervisor.shell.errors import RunNotFound
from crewkeeper_supervisor.shell.nats_link import Link
from crewkeeper_supervisor.shell.registry import Registry
from crewkeeper_supervisor.shell.retention import Retention

HOUR_S = 3600.0
QUICK = Settings(timing=owner.Timing(resend_s=0.2, ended_s=1))


async def ended(link: Link, run: str) -> bool:
    return any(heads.read_token(token).final for token in await heads.read(link, run))


async def has_journal(link: Link, run: str) -> bool:
    try:
        return await journal.last_seq(link, run) > 0
    except RunNotFound:
        return False


async def examined(link: Link, state: Path, run: str, now_s: float) -> audit.Report:
    found = await source.of_run(link, run)
    return await audit.examine(found, key=audit_keys.load(state), now_s=now_s)


@pytest.mark.live
async def test_a_journal_goes_when_its_time_has_come_and_the_audit_says_so(tmp_path: Path) -> None:
    async with linked(tmp_path) as (server, link):
        registry = Registry(link)
        await registry.open()
        for run, kept_s in (("short", HOUR_S), ("long", 9 * HOUR_S), ("ever", 0.0), ("open", HOUR_S)):
            await journal.create_run(link, run, crew(retain=Retain(journal_s=kept_s)), "here")
            await registry.declare(run, "trip", "here")
            if run != "open":
                await journal.publish_op(link, run, m.RunEnded(state="done"), sender=HOST)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: controller.serve(server.place, "one", settings=QUICK))
            for run in ("short", "long", "ever"):
                await until(lambda run=run: is_recorded(registry, link, run), 60)
            await until(lambda: is_owned(link), 60)
            group.cancel_scope.cancel()

        now_s = time.time()
        clock = [now_s]
        needed = {"short"}
        retention = Retention(link, registry, needed.__contains__, clock=lambda: clock[0])
        assert await retention.look() == [], "an hour is not over"
        assert [problem.kind for problem in (await examined(link, tmp_path, "short", now_s)).problems] == []
        clock[0] = now_s + 2 * HOUR_S
        assert await retention.look() == [], "somebody has yet to do with it"
        needed.clear()
        assert await retention.look() == ["short"]
        assert await retention.look() == []
        left = {run: await has_journal(link, run) for run in ("short", "long", "ever", "open")}
        assert left == {"short": False, "long": True, "ever": True, "open": True}

        report = await examined(link, tmp_path, "short", clock[0])
        assert (report.problems, report.proof, report.final) == ([], "whole", True)
        assert "gone by retention" in " ".join(report.remarks)
        early = (await examined(link, tmp_path, "short", now_s)).first
        assert early is not None
        assert (early.kind, "it is to be kept until" in early.text) == ("deleted", True)
        for run, why in (("long", "it is to be kept until"), ("ever", "for ever"), ("open", "no signed head")):
            await link.js.delete_stream(f"CREW_{run}")
            gone = (await examined(link, tmp_path, run, clock[0])).first
            assert gone is not None
            assert (gone.kind, why in gone.text) == ("deleted", True), gone


@pytest.mark.live
async def test_nobody_without_the_key_can_order_a_journal_away(tmp_path: Path) -> None:
    async with linked(tmp_path) as (_, link):
        registry = Registry(link)
        await registry.open()
        await heads.open_stream(link)
        await journal.create_run(link, "r1", crew(), "here")
        await registry.declare("r1", "trip", "here")
        other = tmp_path / "other"
        other.mkdir(mode=0o700)
        told: dict[str, Any] = dict.fromkeys(("hash", "journal", "state", "code"), "") | {
            "run": "r1",
            "n": 1,
            "seq": 1,
            "term": 1,
            "final": True,
            "retain_journal_s": HOUR_S,
        }
        mine, stranger = audit_keys.make(tmp_path), audit_keys.make(other)
        await link.store("heads.r1", mine.sign(told).encode())
        late = lambda: time.time() + 2 * HOUR_S  # noqa: E731
        assert await Retention(link, registry, lambda _: False, clock=late).look() == [], "it is registered as running"
        await registry.set_state("r1", "done")
        for key, changes, removed in (
            (stranger, {}, []),
            (mine, {"final": False}, []),
            (mine, {"run": "r2"}, []),
            (mine, {"retain_journal_s": 0.0}, []),
            (mine, {}, ["r1"]),
        ):
            await link.store("heads.r1", key.sign(told | changes).encode())
            retention = Retention(link, registry, lambda _: False, clock=late)
            assert await retention.look() == removed, changes


async def is_recorded(registry: Registry, link: Link, run: str) -> bool:
    info = await registry.get(run)
    return info is not None and info.state == "done" and await ended(link, run)


async def is_owned(link: Link) -> bool:
    return bool(await ledger.read(link, "open"))
