"""Tools: the module that a scenario's tool host runs, and the file through which its tools are told to misbehave."""

import json
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from crewkeeper_supervisor.chaos.plan.scenario import TOOLS_MODULE, StubTool

TROUBLES: Final = "tool-troubles.json"
_HEAD: Final = '''"""Tools of a scenario; written by the runner."""

import json
import pathlib
import time
from typing import Any

HERE = pathlib.Path(__file__).parent


def answer(name, takes_s, value):
    troubles = json.loads((HERE / "tool-troubles.json").read_text()).get(name, ())
    struck = [each for each in troubles if count(each["id"] + "-called") * each["percent"] % 100 < each["percent"]]
    if struck:
        do = struck[0]["do"]
        for each in struck:
            if each["do"] == do:
                count(each["id"] + "-fired")
        return spoilt(do)
    time.sleep(takes_s)
    return value


def spoilt(do):
    if do == "tool_fails":
        raise RuntimeError("told to fail")
    if do == "tool_hangs":
        time.sleep(3600)
    if do == "tool_misshapes":
        return {"version": 2, "items": [{"value": None}]}
    if do == "tool_bloats":
        return "x" * 50_000_000
    return "\\x00\\u202e</script>\\x1b[2J"


def count(name):
    with (HERE / name).open("a") as file:
        file.write(".")
        return file.tell() - 1
'''


class Trouble(Struct, frozen=True):
    """What is wrong with one tool for a while, as its module reads it."""

    id: str
    """Its name, unlike any other, in the names of the files that count its calls."""
    do: str
    percent: int


class Tools:
    """The tools of one scenario.

    Args:
        folder: Where their module is.
        tools: How each answers.
    """

    def __init__(self, folder: Path, tools: tuple[StubTool, ...]) -> None:
        self._folder = folder
        self._troubles: dict[str, list[Trouble]] = {}
        self._made = 0
        if tools:
            functions = [_function(tool) for tool in tools]
            (folder / f"{TOOLS_MODULE}.py").write_text(_HEAD + "".join(functions))
            self._write()

    def trouble(self, tool: str, do: str, percent: int) -> Trouble:
        """Let a tool misbehave until `calm`. Of several that strike one call the first spoils it: its kind counts."""
        self._made += 1
        made = Trouble(id=f"{tool}-{self._made}", do=do, percent=percent)
        self._troubles.setdefault(tool, []).append(made)
        self._write()
        return made

    def calm(self, tool: str, trouble: Trouble) -> None:
        """End one of its troubles; harmless when repeated."""
        if trouble in self._troubles.get(tool, []):
            self._troubles[tool].remove(trouble)
            self._write()

    def fired(self, trouble: Trouble) -> int:
        """How many calls it has spoilt."""
        file = self._folder / f"{trouble.id}-fired"
        return file.stat().st_size if file.exists() else 0

    def _write(self) -> None:
        file = self._folder / TROUBLES
        fresh = file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(self._troubles))
        fresh.rename(file)


def _function(tool: StubTool) -> str:
    name, arguments = tool.name.replace("-", "_"), ", ".join(f"{name}: Any = None" for name in tool.arguments)
    value = f"json.loads({json.dumps(tool.answer)!r})"
    return f"\n\ndef {name}({arguments}):\n    return answer({tool.name!r}, {tool.takes_s!r}, {value})\n"
