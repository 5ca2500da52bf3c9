"""The kinds of values a crew file can hold, as data, with their limits; which key wants which is elsewhere."""

from typing import Final

from msgspec import Struct, field

YEAR_S: Final = 366 * 24 * 3600.0


class Text(Struct, frozen=True, kw_only=True):
    """A line or paragraph. `variables`: `${NAME}` is allowed; `url`: must be http or https. `empty`: may be."""

    max_chars: int = 2000
    empty: bool = False
    variables: bool = False
    url: bool = False
    pattern: str = ""
    hint: str = ""


class Name(Struct, frozen=True, kw_only=True):
    """The name of a crew or agent; becomes a token of subjects."""

    max_chars: int = 32


class Flag(Struct, frozen=True, kw_only=True):
    """`true` or `false`, no other spelling."""


class Whole(Struct, frozen=True, kw_only=True):
    """A whole number, both limits included."""

    low: int
    high: int


class Duration(Struct, frozen=True, kw_only=True):
    """Seconds as a number, or a number with ms, s, m, h or d. `positive`: zero is refused."""

    low_s: float = 0.0
    high_s: float = YEAR_S
    positive: bool = False


class Money(Struct, frozen=True, kw_only=True):
    """US dollars, at most six decimals."""

    high_usd: int = 1_000_000_000


class Count(Struct, frozen=True, kw_only=True):
    """A whole number that may be written with k (thousand) or M (million)."""

    low: int = 0
    high: int = 2**53


class Size(Struct, frozen=True, kw_only=True):
    """Bytes as a number, or a number with B, kB, KiB, MB or MiB."""

    low: int
    high: int


class Choice(Struct, frozen=True, kw_only=True):
    """One of these words."""

    options: tuple[str, ...]


class Command(Struct, frozen=True, kw_only=True):
    """A command line: a list of words, or one string split like a shell does (no shell runs)."""


class Free(Struct, frozen=True, kw_only=True):
    """A mapping of whatever JSON can hold, left as it is: arguments of a call, a JSON Schema."""


class Ref(Struct, frozen=True, kw_only=True):
    """A value that another format defines, by name: see `Reading.read_ref`. Crew files themselves have none."""

    name: str


class Listing(Struct, frozen=True, kw_only=True):
    """A list of one kind of value. `unique`: none twice."""

    of: "Kind"
    min_items: int = 0
    max_items: int = 5000
    unique: bool = False


class Table(Struct, frozen=True, kw_only=True):
    """A mapping whose keys the author chooses; `what` names one entry."""

    of: "Kind"
    what: str
    key: Name | Text
    min_items: int = 0
    max_items: int = 5000


class Key(Struct, frozen=True, kw_only=True):
    """One key of a section. `default` and `doc` are for people; the values of defaults are in `core.crew`."""

    name: str
    kind: "Kind"
    default: str = ""
    doc: str = ""
    required: bool = False


class Section(Struct, frozen=True, kw_only=True):
    """A mapping with known keys."""

    title: str
    keys: tuple[Key, ...] = field(default_factory=tuple)

    def find(self, name: str) -> Key | None:
        """The key of that name, or None."""
        return next((key for key in self.keys if key.name == name), None)


Kind = (
    Text
    | Name
    | Flag
    | Whole
    | Duration
    | Money
    | Count
    | Size
    | Choice
    | Command
    | Free
    | Ref
    | Listing
    | Table
    | Section
)
