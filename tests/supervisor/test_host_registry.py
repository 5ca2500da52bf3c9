"""Hosts hold their names on a real server, and one is called gone only when it has neither name nor voice."""

import time

import anyio
import pytest
from nats_process import linked

from crewkeeper_supervisor.shell import bucket, host_registry, tokens
from crewkeeper_supervisor.shell.access import Access, AccessRefused
from crewkeeper_supervisor.shell.errors import HostNameTaken, StoreUnavailable
from crewkeeper_supervisor.shell.host_registry import HostInfo, HostRegistry, Registration, ping_subject
from crewkeeper_supervisor.shell.nats_link import WrongLastSequence
from support.bus import until

pytestmark = pytest.mark.live


def info(name: str, inc: str) -> HostInfo:
    return HostInfo(name=name, inc=inc, slots=4, since_s=0.0, counts={"r1": 2, "r2": 1})


async def test_a_name_belongs_to_one_process_until_it_lapses(tmp_path):
    async with linked(tmp_path) as (_, link):
        registry = HostRegistry(link)
        assert await registry.ls() == []
        await registry.open()
        first, second = Registration(link, "w1", "i1", ttl_s=300), Registration(link, "w1", "i2", ttl_s=300)
        await first.take(info("w1", "i1"))
        with pytest.raises(HostNameTaken, match="'w1' is registered already"):
            await second.take(info("w1", "i2"))
        assert [(each.name, each.taken) for each in await registry.ls()] == [("w1", 3)]
        await first.release()
        await second.take(info("w1", "i2"))
        with pytest.raises(HostNameTaken):
            await first.renew(info("w1", "i1"))
        await first.release()  # takes nothing from the other
        assert [each.inc for each in await registry.ls()] == ["i2"]


async def test_what_cannot_be_told_from_an_old_answer_is_asked_again(tmp_path, monkeypatch):
    """A server that leads the bucket and is cut off keeps an earlier try of ours from being followed by another."""
    async with linked(tmp_path) as (_, link):
        await HostRegistry(link).open()
        ours = Registration(link, "w1", "i1", ttl_s=300)
        await ours.take(info("w1", "i1"))
        store = link.store

        async def contested(*_: object, **__: object) -> int:
            raise WrongLastSequence("wrong last sequence")

        monkeypatch.setattr(link, "store", contested)
        with pytest.raises(StoreUnavailable, match="has changed since it was read"):
            await ours.renew(info("w1", "i1"))
        monkeypatch.setattr(link, "store", store)
        await ours.renew(info("w1", "i1"))


async def test_a_registration_that_is_not_renewed_lapses_and_can_be_had_again(tmp_path):
    async with linked(tmp_path) as (_, link):
        registry = HostRegistry(link)
        await registry.open()
        late = Registration(link, "w1", "i1", ttl_s=1)
        await late.take(info("w1", "i1"))

        async def lapsed() -> bool:
            return await registry.ls() == []

        await until(lapsed)
        await late.renew(info("w1", "i1"))
        await until(lapsed)
        await Registration(link, "w1", "i2", ttl_s=300).take(info("w1", "i2"))
        with pytest.raises(HostNameTaken):
            await late.renew(info("w1", "i1"))


async def test_a_host_that_answers_or_is_registered_is_not_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(host_registry, "PING_PAUSE_S", 0.01)
    async with linked(tmp_path) as (server, link):
        registry = HostRegistry(link)
        await registry.open()
        assert await registry.is_gone("w1", "i1") is True
        async with bucket.answering(link, ping_subject("i1")):
            assert await registry.is_gone("w1", "i1") is False
        assert await registry.is_gone("w1", "i1") is True
        await Registration(link, "w1", "i1", ttl_s=300).take(info("w1", "i1"))
        assert await registry.is_gone("w1", "i1") is False
        assert await registry.is_gone("w1", "earlier") is True
        server.stop()
        await until(lambda: not link.is_connected)
        with anyio.fail_after(60):
            assert await registry.is_gone("w1", "i1") is None  # nobody can tell


async def test_a_place_that_was_given_up_issues_nothing_and_others_do(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = Access(link)
        await access.open()
        first, second, never = (tokens.issuer_of(place) for place in ("3-0", "9-1", "12-0"))
        await access.issue("r1", "a", by=first)
        await access.revoke("r1", "a", by=first)
        with pytest.raises(AccessRefused, match="place 3-0 was given up as lost"):
            await access.issue("r1", "a", by=first)
        await access.issue("r1", "a", by=second)
        await access.revoke("r1", "a", by=first)  # an order that is carried out late hits nobody else
        await access.revoke("r1", "a", by=never)
        with pytest.raises(AccessRefused):
            await access.issue("r1", "a", by=never)
        record = await access.get("r1", "a")
        assert record is not None
        assert [each.by for each in record.tokens if each.in_force(time.time())] == [second]
