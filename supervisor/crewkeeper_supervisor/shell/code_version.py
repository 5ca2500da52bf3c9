"""Code version: which program decides, as a digest of the sources that a decision can depend on."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

import crewkeeper_bus
from crewkeeper_supervisor import core, gate

_CHARS: Final = 16


@cache
def code_version() -> str:
    """The first 16 hexadecimal digits of the SHA-256 over the sources of the bus, the core and the gate.

    Equal versions fold a journal into equal states; different ones have to agree on the decisions alone.
    """
    whole = hashlib.sha256()
    for package in (crewkeeper_bus, core, gate):
        assert package.__file__ is not None
        for file in sorted(Path(package.__file__).parent.glob("*.py")):
            whole.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:_CHARS]
