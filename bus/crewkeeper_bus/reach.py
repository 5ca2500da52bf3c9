"""Reach: whom an agent may address, as far as it was told; who enforces that is the server."""

from collections.abc import Sequence

from crewkeeper_bus.errors import Refused


class Reach:
    """Whom this agent may address, as far as it was told.

    What the server would refuse is not sent: it would be missing in this agent's stream, and its caller would hear
    nothing.

    Args:
        calls: Agents and roles that it may call and tell something; None: anybody, or it is not known yet.
        tells: Those that it may tell something besides.
    """

    __slots__ = ("_calls", "_tells")

    def __init__(self, calls: Sequence[str] | None = None, tells: Sequence[str] = ()) -> None:
        """Keep the names."""
        self._calls = None if calls is None else set(calls)
        self._tells = set(tells)

    @property
    def is_narrow(self) -> bool:
        """Whether it may not address everybody."""
        return self._calls is not None

    def add(self, name: str) -> None:
        """One more that it may call: a helper of its own."""
        if self._calls is not None:
            self._calls.add(name)

    def check(self, to: str, role: str, *, tell: bool = False) -> None:
        """Let pass what may be sent.

        Args:
            to: An agent or a role.
            role: The role that an instance of this name has.
            tell: It is a one-way message.

        Raises:
            Refused: It may not.
        """
        if self._calls is None or {to, role} & self._calls or (tell and {to, role} & self._tells):
            return
        key, allowed = ("may_tell", self._calls | self._tells) if tell else ("may_call", self._calls)
        named = ", ".join(sorted(allowed)[:20]) or "nobody"
        what = "send anything to" if tell else "call"
        raise Refused(f"by {key} of the crew file this agent may not {what} {to}, only {named}", reason="denied")
