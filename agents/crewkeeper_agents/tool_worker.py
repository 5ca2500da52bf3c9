"""Tool worker: the process in which tools run, one call at a time; it is ended without mercy when one takes too long.

It talks with the tool host over a socket, in frames: four bytes of length, then a message. Whatever a tool prints goes
to its log. An interrupt cancels what runs, and ends the worker.
"""

import asyncio
import contextvars
import inspect
import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

import msgspec

from crewkeeper_agents.tools import Priced, ToolError, describe, find
from crewkeeper_bus.errors import ConfigError
from crewkeeper_bus.function_schema import FunctionSchema, SignatureRefused, reader_of
from crewkeeper_bus.redaction import Redactor
from crewkeeper_bus.tracing import VARIABLE, carrying, parsed

TEXT_MAX_CHARS: Final = 2000
AMOUNT_MAX: Final = 2**53
SECRET_MIN_CHARS: Final = 6
"""A shorter value of a tool's environment is no secret that could be looked for."""
_HEAD: Final = struct.Struct("!I")
_CHUNK_BYTES: Final = 64 * 1024


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Import a function and describe it."""

    function: str


class Job(msgspec.Struct, frozen=True, kw_only=True, tag="job"):
    """Run a function, or a program that gets the arguments on its standard input."""

    args: msgspec.Raw
    result_bytes: int
    function: str = ""
    command: tuple[str, ...] = ()
    trace: str = ""
    """The context that it runs in: a function finds it current, a program in the variable `TRACEPARENT`."""


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a `Load` or a `Job`."""

    error: str = ""
    code: str = ""
    """`tool_failed` or `too_large`; empty if all went well."""
    described: FunctionSchema | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    cost_microusd: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0


Question = Load | Job
QUESTIONS: Final = msgspec.json.Decoder(Question)
ANSWERS: Final = msgspec.json.Decoder(Told)


def frame(message: msgspec.Struct) -> bytes:
    """A message as it goes over the socket."""
    payload = msgspec.json.encode(message)
    return _HEAD.pack(len(payload)) + payload


class Worker:
    """Answers questions, one after the other.

    Args:
        secrets: Values that must never leave this process.
    """

    def __init__(self, secrets: list[str]) -> None:
        self._functions: dict[str, tuple[Callable[..., Any], Callable[[bytes], dict[str, Any]]]] = {}
        self._loop = asyncio.Runner()  # one for all calls: what a module keeps between them stays usable
        self._redactor = Redactor(kinds=("secrets",))
        wanted = [each for each in secrets if len(each) >= SECRET_MIN_CHARS]
        self._secrets = sorted(wanted, key=len, reverse=True)

    def answer(self, question: Question) -> Told:
        """Do what is asked; whatever it raises is an answer."""
        try:
            if isinstance(question, Load):
                return Told(described=self._load(question.function))
            return self._run(question)
        except (ToolError, ConfigError, SignatureRefused) as error:
            return Told(code="tool_failed", error=self._clean(str(error) or type(error).__name__))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary to the author's code
            traceback.print_exc()  # to the log, for people; the agent hears its last line
            return Told(code="tool_failed", error=self._clean(f"{type(error).__name__}: {error}"))

    def _load(self, place: str) -> FunctionSchema:
        function = find(place)
        self._functions[place] = function, reader_of(function)
        return describe(function)

    def _run(self, job: Job) -> Told:
        if job.command:
            return self._command(job)
        if job.function not in self._functions:
            self._load(job.function)
        function, read = self._functions[job.function]
        try:
            kwargs = read(bytes(job.args))
        except msgspec.MsgspecError as error:
            raise ToolError(f"the arguments do not fit: {error}") from None
        with carrying(job.trace):
            value = function(**kwargs)
            if inspect.isawaitable(value):
                value = self._loop.run(_awaited(value), context=contextvars.copy_context())
        if not isinstance(value, Priced):
            value = Priced(result=value)
        _check_price(value)
        try:
            raw = msgspec.json.encode(value.result)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise ToolError(f"it ran, but its result cannot be sent as JSON: {error}") from None
        told = self._result(raw, job.result_bytes)
        return msgspec.structs.replace(
            told,
            cost_microusd=value.cost_microusd,
            input_tokens=value.input_tokens,
            output_tokens=value.output_tokens,
        )

    def _command(self, job: Job) -> Told:
        env = dict(os.environ) | ({} if parsed(job.trace) is None else {VARIABLE: job.trace})
        process = subprocess.Popen(job.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, env=env)
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(bytes(job.args))
                process.stdin.close()
            except BrokenPipeError:
                pass  # it does not read all of its arguments, which is its business
            out = bytearray()
            while len(out) <= job.result_bytes and (chunk := os.read(process.stdout.fileno(), _CHUNK_BYTES)):
                out += chunk
            if len(out) > job.result_bytes:
                process.kill()
                return _too_large(job.result_bytes)
            code = process.wait()
        if code != 0:
            how = f"exit status {code}" if code > 0 else f"signal {-code}"
            said = bytes(out).decode("utf-8", "replace").strip()
            return Told(code="tool_failed", error=self._clean(f"it ended with {how}{': ' if said else ''}{said}"))
        try:
            value = msgspec.json.decode(out)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            value = bytes(out).decode("utf-8", "replace")
        return self._result(msgspec.json.encode(value), job.result_bytes)

    def _result(self, raw: bytes, limit_bytes: int) -> Told:
        if len(raw) > limit_bytes:
            return _too_large(limit_bytes, len(raw))
        for secret in self._secrets:
            raw = raw.replace(msgspec.json.encode(secret)[1:-1], b"[redacted]")
        return Told(result=msgspec.Raw(raw))

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        text = text.encode("utf-8", "replace").decode()[: 4 * TEXT_MAX_CHARS]
        return self._redactor.text(text)[0][:TEXT_MAX_CHARS]


def _check_price(priced: Priced) -> None:
    """Refuse amounts that nobody could book."""
    for name in ("cost_microusd", "input_tokens", "output_tokens"):
        amount = getattr(priced, name)
        if amount is None and name == "cost_microusd":
            continue
        if type(amount) is not int or not 0 <= amount <= AMOUNT_MAX:
            raise ToolError(f"it ran, but its {name} is {amount!r}: a whole number from 0 to {AMOUNT_MAX} is expected")


def _too_large(limit_bytes: int, size_bytes: int = 0) -> Told:
    size = f"{size_bytes} bytes" if size_bytes else "more"
    return Told(code="too_large", error=f"it ran, but its result has {size}; the limit is {limit_bytes} bytes")


async def _awaited(value: Any) -> Any:
    return await value


def main() -> None:
    """Serve the socket whose number is the first argument; the others name variables that hold secrets."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    os.dup2(2, 1)  # what tools print must not come between answers, nor be lost
    sys.path.insert(0, str(os.getcwd()))  # noqa: PTH109 - as Python itself writes it there
    worker, process = Worker([os.environ.get(name, "") for name in sys.argv[2:]]), os.getpid()
    with socket.socket(fileno=int(sys.argv[1])) as link, link.makefile("rwb") as stream:
        try:
            while head := stream.read(_HEAD.size):
                (size,) = _HEAD.unpack(head)
                told = worker.answer(QUESTIONS.decode(stream.read(size)))
                if os.getpid() != process:
                    os._exit(0)  # a tool has forked, and its copy of us must not answer as well
                stream.write(frame(told))
                stream.flush()
        except (KeyboardInterrupt, BrokenPipeError):
            return


if __name__ == "__main__":
    main()
