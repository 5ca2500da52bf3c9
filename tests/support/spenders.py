"""Agents that all spend one budget, their tool and what an honest reader makes of the ledger afterwards."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from crewkeeper_supervisor.shell.ledger import Record

RESERVE = 2_000_000
ACTUAL = 100_000

TOOL = f"""
import pathlib, time
from crewkeeper_agents.tools import Priced

HERE = pathlib.Path(__file__).parent

def pay(order: str) -> Priced:
    with (HERE / "ran").open("a") as file:
        file.write(order + "\\n")
    time.sleep(0.02)
    return Priced(result=order, cost_microusd={ACTUAL})
"""

SPENDER = """
import asyncio, pathlib, sys
from crewkeeper_agents import Agent
from crewkeeper_bus import ToolRefused

name, spenders, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
agent = Agent(name)
told = (folder / f"told-{name}").open("a", buffering=1)

async def spend(crew, number):
    tries = 0
    while not (folder / "stop").exists():
        call = f"{number}-{tries}"
        tries += 1
        try:
            await crew.call_tool("pay", {"order": f"{name} {call}"}, call_id=call)
            outcome = "paid"
        except ToolRefused as refused:
            outcome = refused.code
        print(name, call, outcome, file=told)
        await asyncio.sleep(0.2)

@agent.main
async def main(crew):
    await asyncio.gather(*(spend(crew, number) for number in range(spenders)))

agent.run()
"""


class Audit(Struct, kw_only=True):
    """What a ledger says of the crew's dollars; amounts in micro-USD."""

    problems: list[str] = field(default_factory=list)
    granted: dict[tuple[str, str], int] = field(default_factory=dict)
    """What is held for each call that is under way."""
    over: dict[tuple[str, str], str] = field(default_factory=dict)
    """How each granted call ended: settle, expire or release."""
    refused: set[tuple[str, str]] = field(default_factory=set)
    held: int = 0
    spent: int = 0
    limit: int = 0

    @property
    def grants(self) -> int:
        """How many calls were granted."""
        return len(self.granted) + len(self.over)

    @property
    def is_exhausted(self) -> bool:
        """Nothing is under way, and not one more call fits."""
        return not self.held and self.spent + RESERVE > self.limit

    def take(self, n: int, booking: dict[str, Any]) -> None:
        """One record, by the amounts alone: what it says of the balances is not believed, but for the limit."""
        key = booking["agent"], booking["call"]
        amount = booking.get("amounts", {}).get("microusd", 0)
        limits = [each["limit"] for each in booking.get("balances", ()) if each["account"] == "crew"]
        self.limit = limits[0] if limits else self.limit
        match booking["act"]:
            case "reserve":
                if key in self.granted or key in self.over:
                    self.problems.append(f"record {n}: {key} is granted twice")
                self.granted[key] = amount
                self.held += amount
            case "refuse":
                self.refused.add(key)
                if self.spent + self.held + RESERVE <= self.limit:
                    self.problems.append(f"record {n}: {key} is refused though it fits")
            case act:
                if key not in self.granted:
                    self.problems.append(f"record {n}: {key} ends and is not under way")
                self.held -= self.granted.pop(key, 0)
                self.over[key] = act
                self.spent += amount
        if self.spent + self.held > self.limit:
            self.problems.append(f"record {n}: {self.spent} spent and {self.held} held are above {self.limit}")


def audit(records: Iterable[Record]) -> Audit:
    """Add up a ledger, in its order, by nothing that the program under test has added up itself."""
    found = Audit()
    for record in records:
        if isinstance(record.command, dict) and (booking := record.command.get("booking")):
            found.take(record.n, booking)
    both = found.refused & (set(found.granted) | set(found.over))
    found.problems += [f"{key} is granted and refused" for key in sorted(both)]
    return found


def write_programs(folder: Path) -> None:
    """The programs of the crew: `spender.py NAME SPENDERS FOLDER`, and a tool host's list of tools."""
    (folder / "spender.py").write_text(SPENDER)
    (folder / "paid_tool.py").write_text(TOOL)
    (folder / "tools.json").write_text(json.dumps({"pay": {"function": "paid_tool:pay"}}))


def told_by(folder: Path) -> dict[tuple[str, str], str]:
    """What became of each call, as its spender was told."""
    lines = [line.split() for file in folder.glob("told-*") for line in file.read_text().splitlines()]
    assert len({(name, call) for name, call, _ in lines}) == len(lines)
    return {(name, call): outcome for name, call, outcome in lines}


def ran(folder: Path) -> list[tuple[str, str]]:
    """The calls that the tool was really run for, in order."""
    return [(name, call) for name, call in map(str.split, (folder / "ran").read_text().splitlines())]
