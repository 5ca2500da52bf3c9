"""Listening: addresses to listen on as `host:port`, read, bound and shown; who answers there stands elsewhere."""

import socket

from crewkeeper_bus.errors import ConfigError


def parted(listen: str, example: str) -> tuple[str, int]:
    """Host and port of `host:port`, with an IPv6 address in brackets.

    Raises:
        ConfigError: It is no address; `example` is one.
    """
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536):
        raise ConfigError(f"{listen[:100]!r} is no address to listen on: write host:port, such as {example}")
    return host, int(port)


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
    """
    return socket.create_server((host, port), family=_family(host))


def reserved(host: str, port: int) -> socket.socket:
    """A socket that is bound so that this user, and nobody else, can bind more to the same port; 0 takes a free one.

    Raises:
        OSError: The port is taken, or the address is not of this machine.
    """
    bound = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def shown_address(host: str, port: int) -> str:
    """`host:port`, as `parted` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(host: str, port: int) -> str:
    """`http://host:port`."""
    return f"http://{shown_address(host, port)}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
