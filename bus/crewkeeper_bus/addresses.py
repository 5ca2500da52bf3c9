"""Addresses: where a transport may dial the servers of its cluster; dialling is the transport's.

A server names the others of its cluster when it greets. Whoever loses its server finds one of them, without having been
told of them before. What they name may lie behind an address translation, so the given address keeps every other turn.
"""

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

KNOWN_MAX: Final = 16
"""Addresses of other servers that are kept."""


class Addresses:
    """The given address and those that servers have named since.

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
        """Where the link is, if it was found from this given address; else the address."""
        self._heed(url)
        return self.current or url

    def following(self, url: str) -> str:
        """Where to dial next.

        Args:
            url: The given address: the first turn, and every other one.
        """
        self._heed(url)
        turn, self._turns = self._turns, self._turns + 1
        given = urlsplit(url)
        others = [each for each in self._others if each != given.netloc.rpartition("@")[2]]
        if turn % 2 == 0 or not others:
            return url
        login, at, _ = given.netloc.rpartition("@")
        return given._replace(netloc=f"{login}{at}{others[turn // 2 % len(others)]}").geturl()

    def _heed(self, url: str) -> None:
        """Fresh credentials may name another server: what was known of the old one's cluster is of no use there."""
        if url != self._given:
            self._given, self.current, self._others, self._turns = url, "", [], 0
