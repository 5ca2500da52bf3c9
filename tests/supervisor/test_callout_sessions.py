"""One process for each token: renewals pass, a second holder is seen, and runs are told once for many."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewkeeper_supervisor.shell.sessions import SETTLE_S, Session, judge
from crewkeeper_supervisor.shell.system_link import Connection
from support.login_stage import RUN, both_modes, login_stage, until

MINE, THEIRS = "~mine-0123456789abcdef", "~theirs-0123456789abcd"


async def told_of(stage, what):
    return [fact for fact in await stage.told() if fact.what == what]


async def has_left(stage, user):
    return not (await stage.system.connections(user, limit_s=60)).connections


@pytest.mark.live
@both_modes
@pytest.mark.parametrize("mark", [THEIRS, ""], ids=["another nonce", "no nonce"])
async def test_a_second_holder_of_a_token_puts_out_the_first_and_is_told_of(mode, mark, tmp_path):
    async with login_stage(mode, tmp_path) as stage, stage.serving():
        await stage.declare()
        access = (await stage.access.issue(RUN, "a")).credentials
        async with stage.knock(access.user, access.password + MINE) as first:
            async with stage.knock(access.user, access.password + mark) as second:
                await until(first.gone.is_set, "the older connection is closed")
                (fact, *_) = await until(lambda: told_of(stage, "second_connection"), "the run is told")
                assert fact.agent == "a"
                assert second.is_connected
            assert stage.sessions.kicked == 1


@pytest.mark.live
async def test_without_a_nonce_every_other_connection_is_another_process(tmp_path):
    async with login_stage("operator", tmp_path) as stage, stage.serving():
        await stage.declare()
        access = (await stage.access.issue(RUN, "a")).credentials
        async with (
            stage.knock(access.user, access.password) as first,
            stage.knock(access.user, access.password) as second,
        ):
            await until(first.gone.is_set)
            async with stage.knock(access.user, access.password):
                await until(second.gone.is_set)
                await until(lambda: told_of(stage, "second_connection"))


@pytest.mark.live
@both_modes
async def test_a_process_that_renews_keeps_both_for_a_while_and_is_not_told_of(mode, tmp_path):
    async with login_stage(mode, tmp_path) as stage, stage.serving() as callout:
        await stage.declare()
        access = (await stage.access.issue(RUN, "a")).credentials
        other = (await stage.access.issue(RUN, "b")).credentials
        async with (
            stage.knock(access.user, access.password + MINE) as old,
            stage.knock(other.user, other.password + THEIRS) as bystander,
            stage.knock(access.user, access.password + MINE) as new,
        ):
            await until(lambda: stage.sessions._leaving, "the old one is noticed")
            assert old.is_connected
            await until(old.gone.is_set, "the old one is closed in the end")
            assert new.is_connected
            assert bystander.is_connected
            assert await stage.told() == []
            assert callout.counts.granted == 3


@pytest.mark.live
async def test_a_process_that_comes_back_after_its_connection_ended_is_no_second_one(tmp_path):
    async with login_stage("operator", tmp_path) as stage, stage.serving():
        await stage.declare()
        access = (await stage.access.issue(RUN, "a")).credentials
        for mark in (MINE, THEIRS, ""):
            async with stage.knock(access.user, access.password + mark) as client:
                assert client.is_connected
            await until(lambda: has_left(stage, access.user), "the server knows that it has ended")
        async with stage.knock(access.user, access.password + MINE) as client:
            await until(lambda: not stage.sessions._due, "all is looked at")
            assert client.is_connected
        assert await stage.told() == []


@pytest.mark.live
async def test_many_at_once_with_one_token_leave_one(tmp_path):
    async with login_stage("operator", tmp_path) as stage, stage.serving():
        await stage.declare()
        stage.sessions._checks_s = (0.02, 0.1, 1.0, 5.0, 20.0)  # a slow server lists the last ones late
        access = (await stage.access.issue(RUN, "a")).credentials
        clients = []

        async def knock(number, done):
            async with stage.knock(access.user, f"{access.password}~{number:032d}") as client:
                clients.append(client)
                await done.wait()

        done = anyio.Event()
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(knock, number, done)
            await until(lambda: len(clients) == 8, "all were let in")
            await until(lambda: sum(client.gone.is_set() for client in clients) == 7, "one is left")
            await until(lambda: told_of(stage, "second_connection"))
            done.set()


@pytest.mark.live
async def test_refusals_are_told_once_with_a_count_and_blame_nobody_without_proof(tmp_path):
    async with login_stage("operator", tmp_path) as stage, stage.serving() as callout:
        await stage.declare()
        issued = await stage.access.issue(RUN, "a")
        access = issued.credentials
        for _ in range(5):
            assert not await stage.is_let_in("r1.a", "00000000-" + "x" * 43)
            assert not await stage.is_let_in("r1.nobody", access.password)
            assert not await stage.is_let_in("nosuchrun.a", access.password)
        await stage.access.revoke(RUN, "a", issued.token)
        for _ in range(3):
            assert not await stage.is_let_in(access.user, access.password)

        async def counted():
            facts = await stage.told()
            unproven = sum(fact.count for fact in facts if fact.what == "login_refused" and fact.agent == "")
            proven = sum(fact.count for fact in facts if fact.what == "revoked_login" and fact.agent == "a")
            return (unproven, proven) == (10, 3)

        await until(counted, "every refusal is counted")
        facts = await stage.told()
        assert {fact.agent for fact in facts if fact.what == "login_refused"} == {""}
        assert len(facts) < 10
        assert callout.counts.refused == 18


@pytest.mark.live
async def test_a_run_that_is_over_is_told_nothing(tmp_path):
    from crewkeeper_supervisor.shell.registry import Registry

    async with login_stage("operator", tmp_path) as stage, stage.serving():
        await stage.declare()
        await stage.declare("r2")
        await Registry(stage.link).set_state(RUN, "done")
        assert not await stage.is_let_in("r1.a", "x")
        assert not await stage.is_let_in("r2.a", "x")

        async def second_is_told():
            return await stage.told("r2")

        await until(second_is_told)
        assert await stage.told(RUN) == []


# --- the rule by itself ---

PLACES = st.tuples(st.sampled_from(["s1", "s2"]), st.integers(1, 6))
NONCES = st.sampled_from(["", "n1", "n2"])


@given(
    st.lists(st.tuples(PLACES, NONCES), min_size=1, max_size=8, unique_by=lambda each: each[0]),
    st.sets(PLACES),
    st.floats(0, 100),
)
def test_the_newest_stays_and_only_its_own_process_may_take_its_time(logins, live, age_s):
    sessions = [Session(server=server, cid=cid, nonce=nonce) for (server, cid), nonce in logins]
    known = {(each.server, each.cid): each.nonce for each in sessions}
    connections = [Connection(server, cid, "r1.a", 1000.0 - age_s) for server, cid in sorted(live)]
    verdict = judge(sessions, connections, 1000.0)
    newest = sessions[-1]
    rivals, leftovers = ({(each.server, each.cid) for each in group} for group in verdict)
    assert not rivals & leftovers
    assert (newest.server, newest.cid) not in rivals | leftovers
    for place in live - {(newest.server, newest.cid)}:
        if place not in known:
            assert (place in rivals) == (1000.0 - (1000.0 - age_s) > SETTLE_S)
            assert place not in leftovers
        elif newest.nonce and known[place] == newest.nonce:
            assert place in leftovers
        else:
            assert place in rivals
