"""Authority: each mode signs what its server takes, and says what it cannot enforce."""

import json
import os
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.lowlevel
import nats.errors
import pytest

from crewkeeper_bus import claims, keys
from crewkeeper_bus.claims import SUBS_MAX, Key
from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConfigError, ServerError
from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_bus.subjects import Permissions, agent_permissions
from crewkeeper_bus.wire import WireClient
from crewkeeper_supervisor.shell.authority import Authority, make_config_block, store_signing_key
from support.bus import until
from support.existing import server_of

AUTH = "$SYS.REQ.USER.AUTH"


async def quiet(_error: Exception) -> None:
    pass


@asynccontextmanager
async def client(credentials: Credentials, **options: Any) -> AsyncIterator[Any]:
    options = {"allow_reconnect": False, "error_cb": quiet, **credentials.options(), **options}
    connection = WireClient()
    try:
        await connection.connect(credentials.url, **options)
        yield connection
        await connection.close()
    finally:
        connection.abandon()
        await anyio.lowlevel.checkpoint()  # its socket ends in the loop's next round


@asynccontextmanager
async def deciding(authority: Authority, permissions: Permissions) -> AsyncIterator[list[claims.LoginRequest]]:
    """A callout that lets everybody in whose password is `good`; yields the requests it has seen."""
    seen: list[claims.LoginRequest] = []

    async def decide(message: Any) -> None:
        asked = claims.login_request(message.data)
        seen.append(asked)
        jwt = authority.user_jwt(
            subject=asked.user_nkey,
            name=asked.user,
            permissions=permissions,
            expires_at=int(time.time()) + 60,
            payload_bytes=1000,
            subs=20,
        )
        good = asked.password == "good"
        answer = {"jwt": jwt} if good else {"error": "wrong password"}
        await message.respond(authority.response(subject=asked.user_nkey, server_id=asked.server_id, **answer))

    async with client(authority.callout) as nc:
        await nc.subscribe(AUTH, cb=decide)
        await nc.flush()
        yield seen


@asynccontextmanager
async def ruled(mode: str, tmp_path: Path) -> AsyncIterator[Authority]:
    """A real server and the authority over it."""
    state = tmp_path / "state"
    if mode == "operator":
        async with EmbeddedServer(state):
            authority = Authority.load(state)
            assert authority is not None
            yield authority
        return
    block = make_config_block(state)
    async with server_of(tmp_path, block) as url:
        authority = Authority.load(state, url)
        assert authority is not None
        yield authority


@pytest.mark.live
@pytest.mark.parametrize("mode", ["operator", "config"])
async def test_who_the_callout_lets_in_is_confined_and_all_others_stay_out(tmp_path: Path, mode: str) -> None:
    async with (
        ruled(mode, tmp_path) as authority,
        deciding(authority, agent_permissions("r1", "a", "a")) as seen,
        client(authority.supervisor) as root,
    ):
        assert authority.mode == mode
        assert authority.enforces
        url = authority.callout.url

        agent = Credentials(url=url, user="r1.a", password="good")
        async with client(agent) as nc, client(authority.system) as system:
            heard = await root.subscribe("crew.>")
            await root.flush()
            await nc.publish("crew.r1.msg.b.a.1", b"forged")
            await nc.publish("$SYS.REQ.USER.AUTH", b"forged")
            await nc.publish("crew.r1.msg.a.b.1", b"true")
            await nc.flush()
            assert (await heard.next_msg(timeout=60)).data == b"true"
            await until(lambda: nc.refused == 2, "both refusals")
            reply = await system.request("$SYS.REQ.SERVER.PING.CONNZ", b'{"auth":true,"user":"r1.a"}', timeout=60)
            listed = json.loads(reply.data)["data"]["connections"]
            assert [(each["authorized_user"], each["account"]) for each in listed] == [("r1.a", authority.account)]
            assert listed[0]["cid"] == seen[0].cid
            for number in range(SUBS_MAX + 1):
                await nc.subscribe(f"out.crew.r1.msg.x{number}.a.*")
            await until(lambda: nc.is_closed, "whoever subscribes without end is cut")
        for stranger in (
            Credentials(url=url, user="r1.a", password="bad"),
            Credentials(url=url),
            Credentials(url=url, seed=Key.make("user").seed),
            Credentials(url=url, user="_supervisor", password=""),
        ):
            with pytest.raises(nats.errors.Error, match="Authorization Violation"):
                async with client(stranger):
                    pass


@pytest.mark.live
@pytest.mark.parametrize("mode", ["operator", "config"])
async def test_an_identity_without_a_right_can_do_nothing(tmp_path: Path, mode: str) -> None:
    async with (
        ruled(mode, tmp_path) as authority,
        deciding(authority, Permissions((), ())),
        client(Credentials(url=authority.callout.url, user="u", password="good")) as nc,
    ):
        await nc.publish("anything", b"")
        await nc.subscribe("anything")
        await nc.flush()
        await until(lambda: nc.refused == 2, "both refusals")


@pytest.mark.live
async def test_pushed_mappings_hold_an_agent_and_a_restart_forgets_them(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for _ in range(2):
        async with EmbeddedServer(state):
            authority = Authority.load(state)
            assert authority is not None
            async with (
                deciding(authority, agent_permissions("r1", "a", "a")),
                client(authority.supervisor) as root,
                client(authority.system) as system,
                client(Credentials(url=authority.callout.url, user="r1.a", password="good")) as agent,
            ):
                heard = await root.subscribe("crew.>")
                await root.flush()
                await agent.publish("crew.r1.msg.a.b.1", b"free")
                assert (await heard.next_msg(timeout=60)).data == b"free"
                pushed = authority.account_claims({"crew.r1.*.a.>": "held.r1.{{wildcard(1)}}.a.>"})
                reply = json.loads((await system.request("$SYS.REQ.CLAIMS.UPDATE", pushed.encode(), timeout=60)).data)
                assert reply["data"]["code"] == 200
                await agent.publish("crew.r1.msg.a.b.2", b"held")
                await agent.flush()
                await root.publish("crew.r1.msg.b.a.3", b"others")
                assert (await heard.next_msg(timeout=60)).data == b"others"


@pytest.mark.live
async def test_users_that_are_kept_log_in_as_before(tmp_path: Path) -> None:
    state, own = tmp_path / "state", Key.make("user")
    block = make_config_block(state, keep_users=("alice", own.public))
    both = f"{{ user: alice, password: pw }}, {{ nkey: {own.public} }}"
    async with server_of(tmp_path, block.replace("accounts {", f"accounts {{ OTHER {{ users: [ {both} ] }}", 1)) as url:
        for each in (Credentials(url=url, user="alice", password="pw"), Credentials(url=url, seed=own.seed)):
            async with client(each) as nc:
                await nc.flush()


def test_a_block_is_made_once_and_holds_no_secret(tmp_path: Path) -> None:
    block = make_config_block(tmp_path, account="AGENTS")
    path = tmp_path / "keys" / "authority.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    seeds = [value for value in json.loads(path.read_bytes()).values() if str(value).startswith("S")]
    assert sum(len(each) == 58 for each in seeds) == 4
    assert not any(each in block for each in seeds if len(each) == 58)
    before = path.read_bytes()
    assert make_config_block(tmp_path, account="AGENTS") == block
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match=r"keys for account 'AGENTS', not 'CREWS'"):
        make_config_block(tmp_path)
    with pytest.raises(ConfigError, match="no name"):
        make_config_block(tmp_path, account="A } evil {")


def test_a_signing_key_makes_users_of_its_account_and_nothing_else(tmp_path: Path) -> None:
    account, signer, agent = Key.make("account"), Key.make("account"), Key.make("user")
    store_signing_key(tmp_path, account=account.public, seed=signer.seed)
    store_signing_key(tmp_path, account=account.public, seed=signer.seed)
    authority = Authority.load(tmp_path, "nats://h:1")
    assert authority is not None
    assert (authority.mode, authority.enforces) == ("signing", False)
    assert "60 s" in authority.cannot_enforce
    assert (authority.callout.seed, authority.system.seed) == ("", "")
    assert authority.supervisor.jwt
    jwt = authority.user_jwt(
        subject=agent.public,
        name="r1.a",
        permissions=agent_permissions("r1", "a", "a"),
        expires_at=99,
        payload_bytes=1,
        subs=2,
    )
    body = claims.unverified(jwt)
    assert (body["iss"], body["sub"], body["exp"]) == (signer.public, agent.public, 99)
    assert body["nats"]["issuer_account"] == account.public
    for forbidden in (
        lambda: authority.response(subject=agent.public, server_id="N", error="no"),
        lambda: authority.account_claims({}),
    ):
        with pytest.raises(ConfigError, match="mode signing"):
            forbidden()
    with pytest.raises(ConfigError, match="something else"):
        store_signing_key(tmp_path, account=account.public, seed=Key.make("account").seed)
    for wrong in ({"account": "A", "seed": signer.seed}, {"account": account.public, "seed": agent.seed}):
        with pytest.raises(ConfigError):
            store_signing_key(tmp_path / "new", **wrong)


def test_without_keys_there_is_only_observing(tmp_path: Path) -> None:
    assert Authority.load(tmp_path) is None
    assert Authority.load(tmp_path, "nats://h:1") is None
    authority = Authority.observing("nats://h:1")
    assert "Nothing is enforced" in authority.cannot_enforce
    with pytest.raises(ConfigError, match="mode observe has no key"):
        authority.user_jwt(
            subject="U", name="n", permissions=Permissions((), ()), expires_at=1, payload_bytes=1, subs=1
        )


def test_the_keys_of_the_embedded_server_are_not_for_another(tmp_path: Path) -> None:
    keys.keyring(tmp_path)
    assert Authority.load(tmp_path, "nats://h:1") is None
    found = Authority.load(tmp_path)
    assert found is not None
    assert found.mode == "operator"
    make_config_block(tmp_path)
    other = Authority.load(tmp_path, "nats://h:1")
    assert other is not None
    assert other.mode == "config"


@pytest.mark.parametrize("where", ["file", "folder"])
def test_keys_that_others_could_read_are_refused(tmp_path: Path, where: str) -> None:
    make_config_block(tmp_path)
    path = tmp_path / "keys" / "authority.json"
    exposed, right = (path, 0o644) if where == "file" else (path.parent, 0o755)
    exposed.chmod(right)
    with pytest.raises(ServerError, match=rf"has mode 0{right:o}.*chmod"):
        Authority.load(tmp_path, "nats://h:1")


def test_damaged_keys_are_named_and_not_shown(tmp_path: Path) -> None:
    make_config_block(tmp_path)
    path = tmp_path / "keys" / "authority.json"
    content = json.loads(path.read_bytes())
    for damage in ({"signer": content["signer"][:-1] + "!"}, {"mode": "canary"}, {"signer": "canary"}):
        path.write_text(json.dumps({**content, **damage}))
        with pytest.raises(ServerError, match=r"authority\.json is damaged") as caught:
            Authority.load(tmp_path, "nats://h:1")
        assert "canary" not in str(caught.value)
        assert content["signer"][:20] not in str(caught.value)
    os.truncate(path, 10)
    with pytest.raises(ServerError, match="is damaged"):
        Authority.load(tmp_path, "nats://h:1")
