"""Addresses: where a transport may dial the servers of its cluster; dialling is the transport's.

An address may stand for several servers of one cluster, with commas between them: they are tried in turn. A server
names the others of its cluster when it greets. Whoever loses its server finds one of them, without having been told of
them before. What they name may lie behind an address translation, so the given ones keep every other turn.
"""

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

KNOWN_MAX: Final = 16
"""Addresses of other servers that are kept."""


def each_of(url: str) -> list[str]:
    """The addresses that one stands for: `nats://a:4222,nats://b:4222` is two. At least one, perhaps empty."""
    return [each.strip() for each in url.split(",") if each.strip()] or [url]


class Addresses:
    """The given addresses and those that servers have named since.

    Attributes:
        current: Where the last link was made; empty before the first one.
    """

    def __init__(self) -> None:
        self.current = ""
        self._given = ""
        self._others: list[str] = []
        self._turns = 0

    def linked(self, url: str) -> None:
        """A link was made there."""
        self.current = url
        self._turns = 0

    def named(self, hosts: Iterable[str]) -> None:
        """A server has named these, each as `host:port`; they replace what was named before, if there are any."""
        self._others = list(dict.fromkeys(hosts))[:KNOWN_MAX] or self._others

    def here(self, url: str) -> str:
        """Where the link is, if it was found from this given address; else the first that the address stands for."""
        self._heed(url)
        return self.current or each_of(url)[0]

    def following(self, url: str) -> str:
        """Where to dial next.

        Args:
            url: The given address: the first turn, and every other one, is one of those it stands for.
        """
        self._heed(url)
        turn, self._turns = self._turns, self._turns + 1
        given = each_of(url)
        hosts = {urlsplit(each).netloc.rpartition("@")[2] for each in given}
        others = [each for each in self._others if each not in hosts]
        if not others:
            return given[turn % len(given)]
        if turn % 2 == 0:
            return given[turn // 2 % len(given)]
        like = urlsplit(given[0])
        login, at, _ = like.netloc.rpartition("@")
        return like._replace(netloc=f"{login}{at}{others[turn // 2 % len(others)]}").geturl()

    def _heed(self, url: str) -> None:
        """Fresh credentials may name another server: what was known of the old one's cluster is of no use there."""
        if url != self._given:
            self._given, self.current, self._others, self._turns = url, "", [], 0
