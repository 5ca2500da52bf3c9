"""What one check of `supervisor doctor` says; the checks themselves are in the files beside."""

from typing import Literal

from msgspec import Struct

Grade = Literal["ok", "warn", "fail"]


class Check(Struct, frozen=True, kw_only=True):
    """The result of one check."""

    name: str
    grade: Grade
    text: str
    fix: str = ""
    """One command or sentence that mends it."""
