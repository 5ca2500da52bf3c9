"""Tokens in other hands, spent, withdrawn or wrong: the server lets nobody in by them, and it is told of."""

import time

import anyio
import pytest

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.messages import Violation
from crewkeeper_bus.nats_transport import NatsTransport
from crewkeeper_supervisor.shell.access import Access
from support.bus import until
from support.raw_nats import dial, enter, raw
from support.siege import Siege

pytestmark = pytest.mark.live

NONCE = "~0123456789abcdef0123"


def with_password(credentials: Credentials, password: str) -> Credentials:
    return Credentials(url=credentials.url, user=credentials.user, password=password)


async def refused(credentials: Credentials) -> None:
    """Assert that a login is refused."""
    client = await dial(credentials)
    try:
        await client.closed()
        assert any("authorization violation" in each.lower() for each in client.errors), client.errors
        assert client.heard == []
    finally:
        await client.close()


async def test_a_stolen_token_is_noticed_and_the_older_connection_closed(siege: Siege):
    own = siege.credentials("bob")
    async with siege.link() as link, raw(with_password(own, own.password + NONCE)) as bob, raw(own) as thief:
        await bob.closed()
        assert await thief.sync(), "of two, the newer stays"
        told = await siege.violation(link, "bob", "second_connection")
        assert told.count >= 1
        await siege.finding(link, "intrusion", "bob")


async def test_of_three_that_share_an_identity_one_is_left(siege: Siege):
    own = siege.credentials("mallory")
    async with siege.link() as link:
        sharers = [await enter(with_password(own, f"{own.password}~{mark * 20}")) for mark in "abc"]
        try:
            await until(lambda: sum(not each.is_closed for each in sharers) == 1, "one of three is left")
            assert not sharers[-1].is_closed
            await siege.finding(link, "intrusion", "mallory")
        finally:
            for each in sharers:
                await each.close()


async def test_a_renewal_is_no_thief(siege: Siege):
    own = siege.credentials("eve")
    async with siege.link() as link:
        changes: list[bool] = []
        transport = await NatsTransport.open(credentials=lambda: own, session_s=600.0, on_change=changes.append)
        for _ in range(3):
            await transport.renew()
        await transport.barrier()
        assert changes == [True]
        async with raw(with_password(own, own.password + NONCE)):
            await until(lambda: False in changes, "a real thief is told from a renewal")
        await siege.violation(link, "eve", "second_connection")
        every = [v for v in await siege.facts(link, Violation) if v.agent == "eve" and v.what == "second_connection"]
        assert sum(each.count for each in every) >= 1
        await transport.close()


async def test_what_is_not_the_token_lets_nobody_in(siege: Siege):
    own = siege.credentials("eve")
    token, _, secret = own.password.partition("-")
    wrong = [
        "",
        secret,
        token,
        f"{token}-",
        f"{token}-{secret[:-1]}",
        f"{token}-{secret}x",
        f"{token}-{secret}~short",
        f"{token}-{secret}~{'x' * 2000}",
        f"x{token}-{secret}",
        own.password.upper(),
        f"{token}-{secret}\x00",
        siege.credentials("bob").password,
    ]
    for password in wrong:
        await refused(with_password(own, password))
    users = ["", "eve", siege.run, "other.eve", "_supervisor", "_system", "_callout", "x" * 2000]
    users += [
        f".{siege.run}.eve",
        *(f"{siege.run}.{name}" for name in ("", "bob", "_host", "*", ">", "eve.x", "nobody")),
    ]
    for user in users:
        await refused(Credentials(url=own.url, user=user, password=own.password))
    async with siege.link() as link:
        told = [v for v in await siege.facts(link, Violation) if v.what == "login_refused"]
        for each in told:
            assert each.agent == "", "who only gives a name is not taken for its bearer"
            assert secret not in each.detail


async def test_without_credentials_nobody_comes_in(siege: Siege):
    url = siege.credentials("eve").url
    for options in (
        {},
        {"auth_token": "x"},
        {"nkey": "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4", "sig": "AAAA"},
        {"jwt": "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.AAAA", "sig": "AAAA"},
    ):
        client = await dial(Credentials(url=url), **options)
        try:
            await client.closed()
        finally:
            await client.close()


async def test_an_expired_token_is_cut_off_and_refused(siege: Siege):
    async with siege.link() as link:
        issued = await siege.issued(link, "bob", ttl_s=4)
        async with raw(issued.credentials) as bob:
            await bob.closed()
            assert any("expired" in each.lower() for each in bob.errors), bob.errors
        await until(lambda: time.time() > issued.expires_at, "it has expired")
        await refused(issued.credentials)
        await siege.violation(link, "bob", "login_refused", "expired")


async def test_a_revoked_token_is_refused_and_its_bearer_known(siege: Siege):
    async with siege.link() as link:
        issued = await siege.issued(link, "mallory")
        await (await dial(issued.credentials)).close()
        await Access(link).revoke(siege.run, "mallory", issued.token)
        await refused(issued.credentials)
        told = await siege.violation(link, "mallory", "revoked_login")
        assert "revoked" in told.detail
        async with raw(siege.credentials("mallory")) as mallory:  # the others hold
            assert await mallory.sync()


async def test_who_does_not_log_in_does_not_stay(siege: Siege):
    url = siege.credentials("eve").url
    address = url.removeprefix("nats://")
    host, _, port = address.partition(":")
    async with await anyio.connect_tcp(host, int(port)) as silent:
        with anyio.fail_after(120):
            said = b""
            try:
                while True:
                    said += await silent.receive()
            except anyio.EndOfStream:
                pass
        assert b"Authentication Timeout" in said
