"""Tools: the module that a scenario's tool host runs, and the file through which its tools are told to misbehave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

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
    troubles = json.loads((HERE / "tool-troubles.json").read_text())
    trouble = troubles.get(name)
    if trouble and count(name + "-called") % 100 < trouble["percent"]:
        count(name + "-fired")
        if trouble["do"] == "tool_fails":
            raise RuntimeError("told to fail")
        if trouble["do"] == "tool_hangs":
            time.sleep(3600)
        if trouble["do"] == "tool_bloats":
            return "x" * 50_000_000
        return "\\x00\\u202e</script>\\x1b[2J"
    time.sleep(takes_s)
    return value


def count(name):
    with (HERE / name).open("a") as file:
        file.write(".")
        return file.tell() - 1
'''


class Trouble(Struct, frozen=True):
    """One tool that misbehaves. `fired`: how many calls it has spoilt."""

    fired: Callable[[], int]


class Tools:
    """The tools of one scenario.

    Args:
        folder: Where their module is.
        tools: How each answers.
    """

    def __init__(self, folder: Path, tools: tuple[StubTool, ...]) -> None:
        self._folder = folder
        self._troubles: dict[str, dict[str, object]] = {}
        if tools:
            functions = [_function(tool) for tool in tools]
            (folder / f"{TOOLS_MODULE}.py").write_text(_HEAD + "".join(functions))
            self._write()

    def trouble(self, tool: str, do: str, percent: int) -> Trouble:
        """Let a tool misbehave until `calm`."""
        before = self._fired(tool)
        self._troubles[tool] = {"do": do, "percent": percent}
        self._write()
        return Trouble(lambda: self._fired(tool) - before)

    def calm(self, tool: str) -> None:
        """Let it behave again."""
        self._troubles.pop(tool, None)
        self._write()

    def _fired(self, tool: str) -> int:
        file = self._folder / f"{tool}-fired"
        return file.stat().st_size if file.exists() else 0

    def _write(self) -> None:
        file = self._folder / TROUBLES
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(self._troubles))
        fresh.rename(file)


def _function(tool: StubTool) -> str:
    name, arguments = tool.name.replace("-", "_"), ", ".join(f"{name}: Any = None" for name in tool.arguments)
    value = f"json.loads({json.dumps(tool.answer)!r})"
    return f"\n\ndef {name}({arguments}):\n    return answer({tool.name!r}, {tool.takes_s!r}, {value})\n"
