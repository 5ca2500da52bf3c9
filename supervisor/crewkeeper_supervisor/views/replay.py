"""Replay: the decisions of a run made again from its journal, and held against its ledger; looks, never acts.

Commands have ids that follow from the journal, so every durable command of the fold has one record in the ledger, and
every record one command of the fold, both the same. What is decided and not recorded is no difference as long as the
journal shows no trace of it: whoever owned the run did not live to record it, and so did not do it either.
"""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

from crewkeeper_supervisor.core.commands import Command
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.gate.rules import make_fold
from crewkeeper_supervisor.shell import chain
from crewkeeper_supervisor.shell.chain import Record
from crewkeeper_supervisor.shell.code_version import code_version
from crewkeeper_supervisor.shell.heads import Head, HeadError, read_token
from crewkeeper_supervisor.shell.journal import Entry

DIFFERENCES_MAX: Final = 100
"""More are counted and not kept."""
State = tuple[str, str]
"""Which sources had the state, and its digest."""
_PLACEHOLDER: Final = re.compile(r"\[redacted:([a-z_]{1,32})(?::[0-9a-f]{12})?\]")


class Difference(Struct, frozen=True, kw_only=True):
    """One place where the replay and what is recorded do not agree."""

    kind: Literal["decided otherwise", "not decided", "not recorded", "another state"]
    """`not decided`: the ledger has it, the replay does not; `not recorded`: it was carried out, and is not in the
    ledger; `another state`: the core's state is not the one that a head was signed for."""
    seq: int
    """Journal sequence it follows from."""
    id: str
    """Command id."""
    n: int = 0
    """Number of the record; 0: there is none."""
    recorded: Any = None
    replayed: Any = None
    after_redaction: bool = False
    """Whether something that stood before it in the journal was taken out of this copy, which may explain it."""


class Replayed(Struct, kw_only=True):
    """What a replay found."""

    run: str
    begun_behind: int = 0
    """Journal sequence of the snapshot that it began with; 0: it began with the first entry."""
    entries: int = 0
    decisions: int = 0
    """Durable commands that the fold decided."""
    recorded: int = 0
    """Records in the ledger, without those where an owner begins."""
    undone: int = 0
    """Decided, neither recorded nor carried out."""
    states: int = 0
    """Signed states, of heads and of a snapshot, that the fold was held against."""
    states_skipped: int = 0
    """Signed states of another version of the program: not comparable."""
    digest: str = ""
    """Of the core's state at the end."""
    differences: list[Difference] = field(default_factory=list)
    more: int = 0
    """Differences beyond those that were kept."""
    schema_version: int = 1


class Replay:
    """Makes the decisions of a run again; feed it the journal in order.

    Attributes:
        core: The state.
        found: What was found so far; complete after `finish`.
    """

    def __init__(
        self,
        run: str,
        records: Sequence[Record],
        tokens: Iterable[str] = (),
        *,
        redacted: Collection[int] = (),
        altered: Sequence[int] = (),
    ) -> None:
        """Begin.

        Args:
            run: The run's id.
            records: Its ledger.
            tokens: Its heads; those that cannot be read are left to `audit verify`.
            redacted: Numbers of records whose commands were redacted in this copy.
            altered: Sequences of journal entries that were, as far as they were read; it may grow.
        """
        self.core: Supervisor = make_fold(run)
        self.found = Replayed(run=run)
        self._records: dict[str, Record] = {r.id: r for r in records if r.kind != "Owner"}
        self._left = dict.fromkeys(self._records)
        self._redacted = frozenset(redacted)
        self._altered = altered
        self._undone: dict[str, Command] = {}
        self._states: dict[int, list[State]] = {}
        for head in _heads(tokens):
            self.hold_against(head.seq, head.code, head.state)
        self.found.recorded = len(self._records)

    def hold_against(self, seq: int, code: str, digest: str) -> None:
        """Compare the core's state with one that was signed at this entry, under these sources."""
        self._states.setdefault(seq, []).append((code, digest))

    def begin(self, data: bytes, digest: str) -> None:
        """Begin behind a snapshot; what was decided before it is not decided again, and not compared.

        Raises:
            SnapshotError: It is none of this code.
        """
        self.core.restore(data, digest)
        self.found.begun_behind = seq = self.core.seq
        self._records = {id_: each for id_, each in self._records.items() if each.cause_seq > seq}
        self._left = dict.fromkeys(self._records)
        self.found.recorded = len(self._records)

    def take(self, entries: Iterable[Entry]) -> None:
        """Fold entries; compare what they decide."""
        core, states = self.core, self._states
        read, handle = core.read, core.handle
        count = 0
        for seq, at_s, subject, payload in entries:
            count += 1
            for command in handle(read(seq, at_s, subject, payload)):
                if command.durable:
                    self._compare(seq, command)
            if seq in states:
                self._compare_states(seq, states[seq])
        self.found.entries += count

    def finish(self) -> Replayed:
        """Name what is left over; returns what was found."""
        pending = self.core.pending
        newest = max((record.cause_seq for record in self._records.values()), default=0)
        for id_, command in self._undone.items():
            # Decisions are recorded in their order, so one that is left out in the middle was not decided then.
            if id_ in pending and _seq(id_) >= newest:
                self.found.undone += 1
            else:
                self._say("not recorded", _seq(id_), id_, replayed=plain(command))
        for id_ in self._left:
            record = self._records[id_]
            self._say("not decided", record.cause_seq, id_, n=record.n, recorded=record.command)
        self.found.differences.sort(key=lambda each: each.seq)
        self.found.digest = self.core.digest()
        return self.found

    def _compare(self, seq: int, command: Command) -> None:
        self.found.decisions += 1
        record = self._records.get(command.id)
        if record is None:
            self._undone[command.id] = command
            return
        self._left.pop(command.id, None)
        made = plain(command)
        if record.command == made:
            return
        if record.n in self._redacted and record.digest == chain.digest_of(made):
            return
        if (record.n in self._redacted or self._altered) and _bare(record.command) == _bare(made):
            return
        self._say("decided otherwise", seq, command.id, n=record.n, recorded=record.command, replayed=made)

    def _compare_states(self, seq: int, states: list[State]) -> None:
        digest = ""
        for code, signed in states:
            if code != code_version() or self._altered:
                self.found.states_skipped += 1
                continue
            self.found.states += 1
            digest = digest or self.core.digest()
            if digest != signed:
                self._say("another state", seq, "", recorded=signed, replayed=digest)

    def _say(self, kind: Any, seq: int, id_: str, **more: Any) -> None:
        if len(self.found.differences) >= DIFFERENCES_MAX:
            self.found.more += 1
            return
        after = bool(self._altered) and self._altered[0] <= seq and self._altered[-1] > 1
        self.found.differences.append(Difference(kind=kind, seq=seq, id=id_, after_redaction=after, **more))


def plain(command: Command) -> Any:
    """A command as plain data, as the ledger has it."""
    return msgspec.json.decode(msgspec.json.encode(command))


def changed_fields(recorded: Any, replayed: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two plain values differ, as (path, recorded, replayed); the first 20."""
    if isinstance(recorded, Mapping) and isinstance(replayed, Mapping):
        found: list[tuple[str, Any, Any]] = []
        for name in dict.fromkeys([*recorded, *replayed]):
            inner = f"{path}.{name}" if path else str(name)
            found += changed_fields(recorded.get(name), replayed.get(name), inner)
        return found[:20]
    return [] if recorded == replayed else [(path, recorded, replayed)]


def _heads(tokens: Iterable[str]) -> Iterator[Head]:
    for token in tokens:
        with contextlib.suppress(HeadError):
            yield read_token(token)


def _bare(value: Any) -> Any:
    """Without the hashes in placeholders: the key that makes them was taken out of a redacted copy."""
    return _PLACEHOLDER.sub(r"[redacted:\1]", msgspec.json.encode(value).decode())


def _seq(id_: str) -> int:
    head = id_.partition("-")[0]
    return int(head) if head.isdecimal() else 0
