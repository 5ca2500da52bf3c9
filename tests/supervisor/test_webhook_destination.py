"""Where webhooks may go: decided from the addresses that are connected to, whatever the address or the name says."""

import ipaddress
import socket

import anyio
import pytest

from crewkeeper_supervisor.shell.destination import ADDRESSES_MAX, Forbidden, is_private, judge, resolve


def naming(monkeypatch, *addresses):
    async def lookup(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    monkeypatch.setattr(anyio, "getaddrinfo", lookup)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://localhost/",
        "https://[::1]:8443/",
        "https://[::ffff:127.0.0.1]/",
        "https://10.0.0.8/",
        "https://172.16.4.4/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://[fd00::1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://[2002:0a00:0001::]/",
    ],
)
async def test_private_addresses_have_to_be_allowed(url):
    with pytest.raises(Forbidden, match=r"private or loopback.*allow_private"):
        await resolve(url, allow_private=False)
    assert await resolve(url, allow_private=True)


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest/meta-data",
        "https://[fe80::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::169.254.169.254]/",
        "https://[fd00:ec2::254]/",
        "https://100.100.100.200/",
        "https://0.0.0.0/",
        "https://[::]/",
        "https://224.0.0.1/",
        "https://[ff02::1]/",
        "https://240.0.0.1/",
        "https://[fec0::1]/",
        "https://[64:ff9b:1::10.0.0.1]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:0:127.0.0.1]/",
        "https://[5f00::1]/",
        "https://192.0.2.1/",
    ],
)
async def test_what_is_no_receivers_address_is_refused_always(url, allow_private):
    with pytest.raises(Forbidden) as forbidden:
        await resolve(url, allow_private=allow_private)
    assert forbidden.value.final


async def test_plain_http_goes_to_allowed_private_addresses_alone(monkeypatch):
    with pytest.raises(Forbidden, match="without encryption"):
        await resolve("http://127.0.0.1/", allow_private=False)
    with pytest.raises(Forbidden, match="public and would be called without encryption"):
        await resolve("http://8.8.8.8/", allow_private=True)
    assert (await resolve("http://127.0.0.1:81/x?y#z", allow_private=True)).urls == ("http://127.0.0.1:81/x?y",)
    naming(monkeypatch, "10.0.0.1", "8.8.8.8")
    with pytest.raises(Forbidden, match=r"8\.8\.8\.8"):
        await resolve("http://ops.example/", allow_private=True)


async def test_a_name_is_connected_to_at_the_address_that_was_judged(monkeypatch):
    naming(monkeypatch, "8.8.8.8", "8.8.4.4")
    found = await resolve("https://user:word@ops.example:444/hook?a=b", allow_private=False)
    assert found.urls == ("https://user:word@8.8.8.8:444/hook?a=b", "https://user:word@8.8.4.4:444/hook?a=b")
    assert (found.host, found.authority) == ("ops.example", "ops.example:444")


async def test_one_private_address_of_a_name_is_enough_to_refuse_it_for_now(monkeypatch):
    naming(monkeypatch, "8.8.8.8", "169.254.169.254")
    with pytest.raises(Forbidden) as forbidden:
        await resolve("https://ops.example/path-canary", allow_private=False)
    assert not forbidden.value.final, "what a name means may change"
    assert "canary" not in str(forbidden.value)


async def test_a_name_with_many_addresses_is_cut(monkeypatch):
    naming(monkeypatch, *(f"8.8.8.{each}" for each in range(1, 30)))
    assert len((await resolve("https://ops.example/", allow_private=False)).urls) == ADDRESSES_MAX


@pytest.mark.parametrize("url", ["ftp://h/", "https://", "https://[x/", "https://h:99999/", "/hook", ""])
async def test_what_is_no_address_is_refused_for_good(url):
    with pytest.raises(Forbidden) as forbidden:
        await resolve(url, allow_private=True)
    assert forbidden.value.final


async def test_a_name_that_means_nothing_is_no_refusal(monkeypatch):
    naming(monkeypatch)
    with pytest.raises(OSError, match="has no address"):
        await resolve("https://ops.example/", allow_private=False)


def test_public_addresses_pass():
    for each in ("8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"):
        address = ipaddress.ip_address(each)
        assert not judge(address, allow_private=False)
        assert not is_private(address)
