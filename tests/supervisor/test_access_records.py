"""The access records on a real server: compare-and-set, what may follow what, and what survives."""

import hashlib
import signal
import time

import anyio
import msgspec
import pytest
from nats_process import linked, nats_process, until

from crewkeeper_bus.errors import ConfigError, SubjectError
from crewkeeper_bus.subjects import service_permissions
from crewkeeper_supervisor.core.reach import Reach
from crewkeeper_supervisor.core.scope import permissions_of
from crewkeeper_supervisor.shell import access as access_module
from crewkeeper_supervisor.shell import tokens
from crewkeeper_supervisor.shell.access import (
    ENDED_KEEP_S,
    TOKENS_MAX,
    TTL_MAX_S,
    Access,
    AccessRefused,
    Damaged,
    NoAccess,
)
from crewkeeper_supervisor.shell.nats_link import connect

pytestmark = pytest.mark.live

DIGEST = hashlib.sha256(b"secret").hexdigest()


async def opened(link):
    access = Access(link)
    await access.open()
    await access.open()
    return access


async def test_tokens_are_issued_listed_and_revoked(tmp_path):
    async with linked(tmp_path) as (server, link):
        access = await opened(link)
        assert await access.ls() == []
        assert await access.get("r1", "a") is None
        first = await access.issue("r1", "a", "w", peers=("b",), ttl_s=60, by="host")
        second = await access.issue("r1", "a", by="me")
        other = await access.issue("r2", "a")
        assert (first.credentials.url, first.credentials.user) == (server.url, "r1.a")
        assert first.expires_at == first.credentials.expires_at == pytest.approx(time.time() + 60, abs=30)
        record = await access.get("r1", "a")
        assert (record.role, record.peers, record.tools, record.state) == ("w", ("b",), None, "running")
        assert [token.id for token in record.tokens] == [first.token, second.token]
        assert [token.by for token in record.tokens] == ["host", "me"]
        login = tokens.parse(first.credentials.password)
        assert record.tokens[0].digest == login.digest
        assert [each.user for each in await access.ls()] == ["r1.a", "r2.a"]
        assert [each.user for each in await access.ls("r1")] == ["r1.a"]
        record = await access.revoke("r1", "a", first.token)
        now_s = time.time()
        assert [token.in_force(now_s) for token in record.tokens] == [False, True]
        record = await access.revoke("r1", "a")
        assert not any(token.in_force(now_s) for token in record.tokens)
        assert (await access.get("r2", "a")).tokens[0].in_force(now_s)
        assert other.token not in [token.id for token in record.tokens]
        for agent, token in (("nobody", None), ("a", "nosuchtoken")):
            with pytest.raises(NoAccess, match=r"nobody|nosuchtoken"):
                await access.revoke("r1", agent, token)


async def test_scope_is_kept_unless_it_is_said_and_roles_stay(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        await access.issue("r1", "a", "w", peers=("b",), tools=("search",))
        await access.issue("r1", "a")
        assert (await access.get("r1", "a")).peers == ("b",)
        await access.issue("r1", "a", "w", peers=None, tools=())
        record = await access.get("r1", "a")
        assert (record.peers, record.tools) == (None, ())
        with pytest.raises(AccessRefused, match="role 'w', not 'x'"):
            await access.issue("r1", "a", "x")


async def test_issuing_has_limits(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        for ttl_s in (0, -1, 0.5, TTL_MAX_S + 1, float("nan")):
            with pytest.raises(AccessRefused, match="a token lives"):
                await access.issue("r1", "a", ttl_s=ttl_s)
        for run, agent, role in (("r.1", "a", ""), ("r1", "*", ""), ("r1", "_a", ""), ("r1", "a", "w w")):
            with pytest.raises(SubjectError):
                await access.issue(run, agent, role)
        with pytest.raises(SubjectError):
            await access.issue("r1", "a", peers=(">",))
        with pytest.raises(AccessRefused, match="129 peers"):
            await access.issue("r1", "a", peers=tuple(f"p{n}" for n in range(129)))
        assert await access.ls() == []
        for _ in range(TOKENS_MAX):
            await access.issue("r1", "a", by="host")
        with pytest.raises(AccessRefused, match=f"has {TOKENS_MAX} tokens in force; revoke"):
            await access.issue("r1", "a", by="me")
        kept = await access.issue("r1", "a", by="host", replaces=True)
        record = await access.get("r1", "a")
        assert [token.id for token in record.tokens if token.in_force(time.time())] == [kept.token]
        assert len(record.tokens) <= 2 * TOKENS_MAX


async def test_nothing_leads_out_of_killed(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        await access.issue("r1", "a")
        assert (await access.set_state("r1", "a", "paused", "grace is over", term=5)).state == "paused"
        again = await access.set_state("r1", "a", "paused", "another reason", term=5)
        assert (again.why, again.term) == ("grace is over", 5)
        with pytest.raises(AccessRefused, match="term 5 has decided after term 4"):
            await access.set_state("r1", "a", "running", term=4)
        assert (await access.set_state("r1", "a", "running", term=6)).term == 6
        killed = await access.set_state("r1", "a", "killed", "it flooded", term=1)
        assert (killed.state, killed.why, killed.term) == ("killed", "it flooded", 6)
        assert await access.set_state("r1", "a", "killed") == killed
        for state in ("running", "paused"):
            with pytest.raises(AccessRefused, match=r"was killed \(it flooded\)"):
                await access.set_state("r1", "a", state, term=9)
        with pytest.raises(AccessRefused, match="not let in again"):
            await access.issue("r1", "a")


async def test_an_agent_without_credentials_can_be_killed_and_nothing_else(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        with pytest.raises(NoAccess):
            await access.set_state("r1", "a", "paused")
        assert (await access.set_state("r1", "a", "killed")).state == "killed"
        with pytest.raises(AccessRefused):
            await access.issue("r1", "a")


async def test_a_run_that_ends_shuts_everybody_out_for_good(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        for run, agent in (("r1", "a"), ("r1", "b"), ("r2", "a")):
            await access.issue(run, agent)
        await access.set_state("r1", "b", "killed", "before")
        assert await access.end_run("r1") == 2
        assert await access.end_run("r1") == 2
        assert await access.end_run("nosuchrun") == 0
        records = {each.user: each for each in await access.ls()}
        assert {user: (each.over, each.state) for user, each in records.items()} == {
            "r1.a": (True, "killed"),
            "r1.b": (True, "killed"),
            "r2.a": (False, "running"),
        }
        assert records["r1.b"].why == "before"
        with pytest.raises(AccessRefused, match="is over"):
            await access.issue("r1", "a")
        stored = await link.last("KV_ACCESS", "$KV.ACCESS.r1.a")
        assert stored.headers["Nats-TTL"] == f"{ENDED_KEEP_S}s"


async def test_the_records_of_an_ended_run_go_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(access_module, "ENDED_KEEP_S", 1)
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        await access.issue("r1", "a")
        await access.issue("r2", "a")
        await access.end_run("r1")

        async def gone():
            return [each.user for each in await access.ls()] == ["r2.a"]

        await until(gone)
        assert await access.get("r1", "a") is None


async def test_a_sub_agent_is_admitted_by_digest_and_only_once_by_one_parent(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        wanted = {
            "parent": "a",
            "task": "t1",
            "peers": ("b",),
            "tools": (),
            "expires_s": 60,
            "token": "abcdef123456",
            "digest": DIGEST,
        }
        with pytest.raises(AccessRefused, match="let in nobody"):
            await access.admit("r1", "sub", "sub", **wanted)
        for parent in ("a", "z"):
            await access.issue("r1", parent)
        record = await access.admit("r1", "sub", "sub", **wanted)
        assert (record.parent, record.task, record.peers, record.tools) == ("a", "t1", ("b",), ())
        assert [(token.id, token.digest, token.by) for token in record.tokens] == [("abcdef123456", DIGEST, "a")]
        assert await access.admit("r1", "sub", "sub", **wanted) == record
        for change in ({"parent": "z"}, {"task": "t2"}, {"token": "123456abcdef"}):
            with pytest.raises(AccessRefused, match="choose another name"):
                await access.admit("r1", "sub", "sub", **{**wanted, **change})
        await access.issue("r1", "other")
        with pytest.raises(AccessRefused, match="choose another name"):
            await access.admit("r1", "other", "other", **wanted)
        for change in ({"token": "a-b"}, {"digest": "xyz"}):
            with pytest.raises(ConfigError):
                await access.admit("r1", "sub2", "sub2", **{**wanted, **change})
        await access.set_state("r1", "sub", "killed", "its task ended")
        with pytest.raises(AccessRefused, match="killed"):
            await access.admit("r1", "sub", "sub", **wanted)


async def test_a_helper_gets_no_more_than_its_parents_credentials_have(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        await access.issue("r1", "a", peers=("b",), tools=("search",))
        wanted = {"parent": "a", "task": "t", "expires_s": 60.0, "token": "abcdef123456", "digest": DIGEST}
        for peers, tools in ((("a", "b", "c"), ()), (None, ()), (("b",), ("pay",)), (("b",), None)):
            with pytest.raises(AccessRefused, match="credentials of a allow less"):
                await access.admit("r1", "sub", "sub", peers=peers, tools=tools, **wanted)
        assert await access.get("r1", "sub") is None
        record = await access.admit("r1", "sub", "sub", peers=("a", "b"), tools=("search",), **wanted)
        assert (record.peers, record.tools) == (("a", "b"), ("search",))
        parent = await access.get("r1", "a")
        assert parent is not None
        assert parent.helpers == ("sub",)
        assert "crew.r1.req.a.sub.*" in permissions_of(parent).publish
        await access.set_state("r1", "a", "killed")
        with pytest.raises(AccessRefused, match="let in nobody"):
            await access.admit("r1", "sub2", "sub2", peers=("b",), tools=(), **wanted)


async def test_the_crew_file_says_whom_a_new_agent_may_address_and_an_operator_from_then_on(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)

        async def reached(agent, reach, **fields):
            await access.issue("r1", agent, reach=reach, **fields)
            record = await access.get("r1", agent)
            return record.peers, record.tells

        assert await reached("a", Reach(("b",), ("c",))) == (("b",), ("c",))
        assert await reached("a", None, peers=()) == ((), ("c",))
        assert await reached("a", Reach(("b", "d"))) == ((), ("c",))  # a host that starts again changes nothing
        assert await reached("b", Reach(tuple(f"p{n}" for n in range(129)))) == (None, ())  # the core refuses instead


async def test_only_a_host_lets_in_services_and_nobody_else_bears_their_names(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        issued = await access.issue("r1", "_tools", "_tools")
        assert issued.credentials.user == "r1._tools"
        assert permissions_of(await access.get("r1", "_tools")) == service_permissions("r1", "_tools")
        for name, role in (("_host", ""), ("_tools", "worker"), ("worker", "_tools")):
            with pytest.raises(SubjectError):
                await access.issue("r1", name, role)
        scope = {"parent": "a", "task": "t", "peers": None, "tools": None, "expires_s": 60.0}
        with pytest.raises(SubjectError):
            await access.admit("r1", "_model", "_model", token="0123456789ab", digest=DIGEST, **scope)


async def test_writers_at_the_same_time_lose_nothing(tmp_path):
    async with linked(tmp_path) as (server, link), connect(server.place) as other:
        one, two = await opened(link), Access(other)
        issued = []

        async def issue(access):
            for _ in range(5):
                issued.append((await access.issue("r1", "a")).token)

        async with anyio.create_task_group() as group:
            group.start_soon(issue, one)
            group.start_soon(issue, two)
            group.start_soon(one.set_state, "r1", "b", "killed")
        record = await one.get("r1", "a")
        assert sorted(token.id for token in record.tokens) == sorted(issued)
        assert len(issued) == 10
        killed = anyio.Event()

        async def kill():
            await two.set_state("r1", "a", "killed")
            killed.set()

        async with anyio.create_task_group() as group:
            group.start_soon(kill)
            while not killed.is_set():
                try:
                    await one.issue("r1", "a", by="x", replaces=True)
                except AccessRefused:
                    break
        assert (await one.get("r1", "a")).state == "killed"


async def test_records_outlive_the_server(tmp_path):
    with nats_process(tmp_path) as server:
        async with connect(server.place) as link:
            access = await opened(link)
            issued = await access.issue("r1", "a")
            await access.set_state("r1", "a", "killed", "before the crash")
            await access.issue("r1", "b")
        server.stop(signal.SIGKILL)
        server.start()
        async with connect(server.place) as link:
            access = await opened(link)
            record = await access.get("r1", "a")
            assert (record.state, record.why) == ("killed", "before the crash")
            assert record.tokens[0].id == issued.token
            assert (await access.get("r1", "b")).state == "running"


async def test_what_cannot_be_read_is_an_error_except_to_a_kill(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        await access.issue("r1", "b")
        stored = await link.last("KV_ACCESS", "$KV.ACCESS.r1.b")
        for data in (b"\xff", b"{}", stored.data, msgspec.json.encode({"run": "r1"})):
            await link.store("$KV.ACCESS.r1.a", data)
            for use in (
                lambda: access.get("r1", "a"),
                lambda: access.issue("r1", "a"),
                lambda: access.set_state("r1", "a", "running"),
                lambda: access.revoke("r1", "a"),
            ):
                with pytest.raises(Damaged, match="cannot be read"):
                    await use()
        assert [each.user for each in await access.ls()] == ["r1.b"]
        assert (await access.set_state("r1", "a", "killed")).state == "killed"


async def test_what_a_host_tried_to_log_in_with_is_not_listed_and_does_not_stay(tmp_path):
    async with linked(tmp_path) as (_, link):
        access = await opened(link)
        await access.issue("r1", "a")
        for name in ("h1", "h2"):
            await access.issue("_probe", name)
        assert await access.end_run("_probe", "h1") == 1
        assert [each.user for each in await access.ls()] == ["r1.a"]
        assert [(each.agent, each.over) for each in await access.ls("_probe")] == [("h1", True), ("h2", False)]
