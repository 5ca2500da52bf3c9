"""Codes: what each one that this project prints or sends means, and what to do about it, read from `codes.yaml`."""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Final

import msgspec
import yaml
from msgspec import Struct

from crewkeeper_supervisor.shell.crew_problems import CODES as CREW_CODES

FILE: Final = "codes.yaml"


class Code(Struct, frozen=True, kw_only=True):
    """One code."""

    code: str
    family: str
    """`finding`, `fault`, `proxy`, `login`, `crew-file`, `command` or `exit`; one word may be of several."""
    what: str
    do: str
    see: str
    """A page of the documentation."""


class _Said(Struct, forbid_unknown_fields=True):
    do: str
    what: str = ""
    see: str = ""


class _Family(Struct, forbid_unknown_fields=True):
    about: str
    see: str
    codes: dict[str, _Said]


@cache
def _families() -> dict[str, _Family]:
    text = resources.files("crewkeeper_supervisor.cli").joinpath(FILE).read_text("utf-8")
    return msgspec.convert(yaml.safe_load(text), dict[str, _Family])


def about() -> dict[str, str]:
    """By family: one sentence of what its codes are."""
    return {name: family.about for name, family in _families().items()}


@cache
def codes() -> tuple[Code, ...]:
    """Every code, by family."""
    found = []
    for name, family in _families().items():
        for code, said in family.codes.items():
            what = said.what or f"{CREW_CODES[code].capitalize()}."
            found.append(Code(code=code, family=name, what=what, do=said.do, see=said.see or family.see))
    return tuple(found)


def explain(word: str) -> Sequence[Code]:
    """Every meaning of a code; its case and whether it has `-` or `_` do not matter, nor a number of a finding."""
    wanted = _plain(word)
    return [each for each in codes() if _plain(each.code) == wanted]


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").replace(" ", "_")
