"""Who is let in, on real servers: by token, state and time; and what the one who is let in may do."""

import time

import pytest

from crewkeeper_supervisor.shell.callout import Callout
from support.login_stage import RUN, both_modes, login_stage, may_publish, may_subscribe, until

pytestmark = pytest.mark.live


@both_modes
async def test_a_token_lets_its_agent_in_with_its_own_rights_and_no_others(mode, tmp_path):
    async with login_stage(mode, tmp_path) as stage, stage.serving() as callout:
        issued = await stage.access.issue(RUN, "a", "w", peers=("b",))
        given = issued.credentials
        assert (given.user, given.url) == ("r1.a", stage.url)
        async with stage.knock(given.user, given.password) as client:
            assert await may_publish(client, "crew.r1.req.a.b.i1")
            assert await may_publish(client, "crew.r1.rep.a.z.i1")
            assert await may_publish(client, "crew.r1.hb.a._.i1")
            for subject in (
                "crew.r1.req.a.z.i1",
                "crew.r1.req.b.a.i1",
                "crew.r1.hb.a.b.i1",
                "crew.r2.req.a.b.i1",
                "crew.r1.ctl.a.b.i1",
                "crew.r1.op._._.i1",
                "crew.r1.req.a.b.i1.x",
                "out.crew.r1.req.a.b.i1",
                "$JS.API.INFO",
                "$KV.ACCESS.r1.a",
                "$SYS.REQ.USER.AUTH",
                "_INBOX.x",
            ):
                assert not await may_publish(client, subject), subject
            assert await may_subscribe(client, "out.crew.r1.req.*.a.*")
            assert await may_subscribe(client, "out.crew.r1.req.*.w.*", "w")
            for subject, queue in (
                ("out.crew.r1.req.*.w.*", ""),
                ("out.crew.r1.req.*.w.*", "other"),
                ("out.crew.r1.req.*.b.*", ""),
                ("out.crew.r1.>", ""),
                ("crew.r1.>", ""),
                ("_INBOX.>", ""),
                ("$SYS.>", ""),
                (">", ""),
            ):
                assert not await may_subscribe(client, subject, queue), (subject, queue)
        assert callout.counts.granted == 1


@both_modes
async def test_only_a_token_in_force_lets_in(mode, tmp_path):
    async with login_stage(mode, tmp_path) as stage, stage.serving() as callout:
        issued = await stage.access.issue(RUN, "a")
        user, password = issued.credentials.user, issued.credentials.password
        other = await stage.access.issue(RUN, "b")
        assert await stage.is_let_in(user, password)
        assert await stage.is_let_in(user, password + "~0123456789abcdef")
        for name, secret in (
            (user, ""),
            (user, password[:-1]),
            (user, password + "x"),
            (user, password + "~short"),
            (user, other.credentials.password),
            ("r1.b", password),
            ("r2.a", password),
            ("a", password),
            ("r1.a.x", password),
            ("r1.*", password),
            ("r1.>", password),
            ("_supervisor", password),
            ("", password),
            (user + "\n", password),
            (user, password + "\0"),
        ):
            assert not await stage.is_let_in(name, secret), name
        await stage.access.revoke(RUN, "a", issued.token)
        assert not await stage.is_let_in(user, password)
        again = await stage.access.issue(RUN, "a")
        assert await stage.is_let_in(user, again.credentials.password)
        assert not await stage.is_let_in(user, password)
        await stage.access.end_run(RUN)
        assert not await stage.is_let_in(user, again.credentials.password)
        assert not await stage.is_let_in("r1.b", other.credentials.password)
        assert callout.counts.failed == 0


@both_modes
async def test_a_session_ends_with_its_token_at_the_latest(mode, tmp_path):
    async with login_stage(mode, tmp_path) as stage, stage.serving():
        longer = (await stage.access.issue(RUN, "b")).credentials
        issued = await stage.access.issue(RUN, "a", ttl_s=3.0)
        given = issued.credentials
        async with (
            stage.knock(given.user, given.password) as client,
            stage.knock(longer.user, longer.password) as other,
        ):
            await until(client.gone.is_set, "the server closes it")
            assert other.is_connected
        await until(lambda: time.time() > issued.expires_at)
        assert not await stage.is_let_in(given.user, given.password)


@both_modes
async def test_a_paused_agent_hears_the_supervisor_and_says_nothing(mode, tmp_path):
    async with login_stage(mode, tmp_path) as stage, stage.serving():
        given = (await stage.access.issue(RUN, "a", "w")).credentials
        await stage.access.set_state(RUN, "a", "paused", "test", term=3)
        async with stage.knock(given.user, given.password) as client:
            assert await may_subscribe(client, "out.crew.r1.ctl.*.a.*")
            for subject in ("out.crew.r1.req.*.a.*", "out.crew.r1.rep.*.a.*", "x"):
                assert not await may_subscribe(client, subject), subject
            for subject in ("crew.r1.msg.a.b.i", "crew.r1.hb.a._.i", "crew.r1.note.a._.i", "x"):
                assert not await may_publish(client, subject), subject
        await stage.access.set_state(RUN, "a", "running", term=3)
        async with stage.knock(given.user, given.password) as client:
            assert await may_publish(client, "crew.r1.msg.a.b.i")


@both_modes
async def test_a_killed_agent_is_never_let_in_again(mode, tmp_path):
    async with login_stage(mode, tmp_path) as stage, stage.serving() as callout:
        given = (await stage.access.issue(RUN, "a")).credentials
        await stage.access.set_state(RUN, "a", "killed", "test")
        assert not await stage.is_let_in(given.user, given.password)
        assert callout.counts.refused == 1


@both_modes
async def test_a_wrong_authority_is_not_believed(mode, tmp_path):
    """A callout with keys of its own lets nobody in."""
    from crewkeeper_bus.claims import Key

    async with login_stage(mode, tmp_path) as stage:
        stage.authority._signer = Key.make("account")
        async with stage.serving() as callout:
            given = (await stage.access.issue(RUN, "a")).credentials
            assert isinstance(callout, Callout)
            assert not await stage.is_let_in(given.user, given.password)
            assert callout.counts.granted == 1
