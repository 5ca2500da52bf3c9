"""Tools that succeed, fail, hang, die and leak; run in processes of their own by the tests of the tool host."""

import asyncio
import os
import pathlib
import signal
import subprocess
import time
from typing import Annotated

import msgspec

from crewkeeper_agents.tools import Priced, ToolError, tool


def mark(what: str) -> None:
    """Leave a trace of a run in the working directory: one byte each."""
    with pathlib.Path(what).open("ab") as file:
        file.write(b".")


@tool
def add(a: int, b: Annotated[int, msgspec.Meta(ge=0)] = 1) -> int:
    """Add two numbers."""
    mark("add")
    return a + b


async def slow_add(a: int, b: int) -> dict[str, int]:
    """Add two numbers, later."""
    await asyncio.sleep(0)
    return {"sum": a + b, "pid": os.getpid()}


def hang(child: bool = False) -> None:
    """Never return, nor let an interrupt through."""
    mark("hang")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if child:
        process = subprocess.Popen(["sleep", "600"])
        pathlib.Path("child").write_text(str(process.pid))
    pathlib.Path("hang-pid").write_text(str(os.getpid()))
    while True:
        time.sleep(600)


async def hang_async() -> None:
    """Never return, but clean up when cancelled."""
    mark("hang_async")
    try:
        await asyncio.sleep(600)
    finally:
        mark("cleaned")


def gate(name: str) -> str:
    """Return when a file is there."""
    mark(f"began-{name}")
    while not pathlib.Path(name).exists():
        time.sleep(0.01)
    mark(f"ended-{name}")
    return name


def fork(name: str) -> str:
    """Return twice: as the process that was asked, and as a copy of it."""
    copy = os.fork() == 0
    return f"the copy of {name}" if copy else name


def deep(levels: int) -> object:
    """Return lists in lists."""
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def die() -> None:
    """End the process in the middle."""
    mark("die")
    os._exit(7)


def fail(how: str) -> None:
    """Fail."""
    if how == "told":
        raise ToolError("there is no such account")
    if how == "exit":
        raise SystemExit(3)
    raise KeyError(f"key {os.environ.get('PAY_KEY', '-')} is wrong, and AKIAIOSFODNN7EXAMPLE too")


def env(name: str) -> str:
    """Tell a variable."""
    return os.environ.get(name, "-")


def large(size: int) -> str:
    """Return much."""
    return "x" * size


def odd() -> object:
    """Return what JSON cannot say."""
    return object()


def gift() -> Priced:
    """Claim to bring money."""
    return Priced(result={"ok": True}, cost_microusd=-77)


def priced() -> Priced:
    """Cost something else."""
    print("this is no answer")  # noqa: T201 - to see that it harms none
    return Priced(result={"ok": True}, cost_microusd=77)


def untyped(x):  # type: ignore[no-untyped-def]
    """Have no hints."""
    return x
