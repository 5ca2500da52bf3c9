"""Destination: where a webhook may go, decided once for each attempt from the addresses that are then connected to.

A name is resolved here and the connection goes to an address that was judged, so that a name that changes its mind
in between leads nowhere. What the crew file does not allow is refused: private addresses and, anywhere but at those,
plain http. What no receiver of webhooks has is refused always: link-local (the metadata of clouds), multicast, none.
"""

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

import anyio
from msgspec import Struct

ADDRESSES_MAX: Final = 4
"""How many addresses of one name are tried."""
RESOLVE_LIMIT_S: Final = 5.0
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
"""Where clouds keep metadata at addresses that look private or public, beside the link-local one."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_ALLOW: Final = "write allow_private: true beside the webhook if that is meant"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Forbidden(ValueError):  # noqa: N818 - named for what is the case, like the other errors here
    """A webhook may not go there. The text names the host, never path or credentials.

    Attributes:
        final: Whether it stays so: it stands in the address itself, not in what a name means at the moment.
    """

    def __init__(self, text: str, *, final: bool) -> None:
        """Hold the text and whether it stays so."""
        super().__init__(text)
        self.final = final


class Destination(Struct, frozen=True, kw_only=True):
    """An address that was judged, in the parts that a request needs."""

    urls: tuple[str, ...]
    """The address with a numeric host, one for each address of the name; to be tried in turn."""
    authority: str
    """The `Host` header: as the address was written."""
    host: str
    """The name, for TLS and for people."""


async def resolve(url: str, *, allow_private: bool) -> Destination:
    """Judge an address and resolve its name, once.

    Args:
        url: The address of a receiver, with every variable replaced.
        allow_private: Whether private and loopback addresses may be called, also without encryption.

    Raises:
        Forbidden: It may not be called.
        OSError: The name means nothing now, or nobody answers for it in time.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise Forbidden("the webhook is not a usable address", final=True) from None
    if parts.scheme not in ("http", "https") or not host:
        raise Forbidden("the webhook is not an http or https address", final=True)
    if parts.scheme == "http" and not allow_private:
        raise Forbidden(f"{host} would be called without encryption: write https, or {_ALLOW}", final=True)
    literal = _literal(host)
    found = [literal] if literal else await _lookup(host, port)
    for address in found:
        if problem := judge(address, allow_private=allow_private):
            raise Forbidden(f"{_named(host, address)} {problem}", final=literal is not None)
        if parts.scheme == "http" and not is_private(address):
            what = f"{_named(host, address)} is public and would be called without encryption: write https"
            raise Forbidden(what, final=literal is not None)
    netloc = [f"[{each}]" if each.version == 6 else str(each) for each in found]
    user, at, _ = parts.netloc.rpartition("@")
    suffix = f":{parts.port}" if parts.port else ""
    shown = f"[{host}]" if ":" in host else host
    return Destination(
        urls=tuple(parts._replace(netloc=f"{user}{at}{each}{suffix}", fragment="").geturl() for each in netloc),
        authority=f"{shown}{suffix}",
        host=host,
    )


def judge(address: Address, *, allow_private: bool) -> str:
    """Why an address may not be called; empty if it may."""
    for each in (address, *_embedded(address)):
        if each in _METADATA or each.is_link_local or each.is_multicast or each.is_unspecified:
            return "is link-local, multicast, unspecified or a cloud's metadata, which no webhook may go to"
        if is_private(each):
            if not allow_private:
                return f"is a private or loopback address: {_ALLOW}"
        elif not _embedded(each) and not _is_public(each):
            return "is a reserved address, which no webhook may go to"
    return ""


def is_private(address: Address) -> bool:
    """Whether an address is of this machine, of a private network, or shared by a provider's customers."""
    address = next(iter(_embedded(address)), address)
    if address.is_loopback:
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return any(address in network for network in _PRIVATE_4)
    return address in _PRIVATE_6


def _is_public(address: Address) -> bool:
    """Whether an address is one of those that the internet consists of."""
    return address.is_global and (isinstance(address, ipaddress.IPv4Address) or address in _PUBLIC_6)


_PRIVATE_4: Final = tuple(
    map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
)
_PRIVATE_6: Final = ipaddress.IPv6Network("fc00::/7")
_PUBLIC_6: Final = ipaddress.IPv6Network("2000::/3")
"""All that is given out for the internet; outside of it are ways to IPv4 that only one network knows (RFC 8215)."""


def _embedded(address: Address) -> tuple[Address, ...]:
    """The IPv4 address that an IPv6 address leads to, if any."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    if address in _NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    return () if inner is None else (inner,)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


async def _lookup(host: str, port: int) -> list[Address]:
    try:
        with anyio.fail_after(RESOLVE_LIMIT_S):
            rows = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise OSError(f"nobody says within {RESOLVE_LIMIT_S:g} s what {host} means") from None
    except UnicodeError:
        raise Forbidden("the webhook is not a usable address", final=True) from None
    addresses = dict.fromkeys(ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows)
    if not addresses:
        raise OSError(f"{host} has no address")
    return list(addresses)[:ADDRESSES_MAX]


def _named(host: str, address: Address) -> str:
    return host if host == str(address) else f"{host} ({address})"
