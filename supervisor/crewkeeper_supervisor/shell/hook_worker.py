"""The process that runs Python hooks of a policy: loads them, answers one question after the other; see `hooks`."""

import importlib
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

_BECAUSE_MAX_CHARS: Final = 500


def main() -> None:
    """Serve the socket whose number is the first argument, with modules from the folder that is the second."""
    # What hooks print must not come between answers, nor on the terminal's data.
    os.dup2(2, 1)
    sys.path.insert(0, sys.argv[2])
    functions: dict[str, Callable[[dict[str, Any]], object]] = {}
    with socket.socket(fileno=int(sys.argv[1])) as link, link.makefile("rwb") as lines:
        for line in lines:
            question = json.loads(line)
            if "load" in question:
                answer: dict[str, Any] = {"errors": _load(question["load"], functions)}
            else:
                answer = _ask(functions, question["hook"], question["call"])
            lines.write(json.dumps({"id": question["id"], **answer}).encode() + b"\n")
            lines.flush()


def _load(names: list[str], functions: dict[str, Callable[[dict[str, Any]], object]]) -> dict[str, str]:
    """Import every hook; what is wrong with each that cannot be."""
    errors = {}
    for name in names:
        module, _, attribute = name.partition(":")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # noqa: BLE001 - whatever a module does when it is imported is its author's to know
            errors[name] = _told(error)
            continue
        if callable(function):
            functions[name] = function
        else:
            errors[name] = f"{attribute} is not a function"
    return errors


def _ask(functions: dict[str, Callable[[dict[str, Any]], object]], name: str, call: dict[str, Any]) -> dict[str, Any]:
    function = functions.get(name)
    if function is None:
        return {"error": "it is not loaded"}
    try:
        answer = function(call)
    except Exception as error:  # noqa: BLE001 - an error of a hook is an answer: the caller denies
        return {"error": _told(error)}
    if isinstance(answer, bool):
        return {"applies": answer}
    if isinstance(answer, str) and answer:
        return {"applies": answer[:_BECAUSE_MAX_CHARS]}
    return {"error": f"it returned {type(answer).__name__}, not True, False or a reason"}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_BECAUSE_MAX_CHARS]


if __name__ == "__main__":
    main()
