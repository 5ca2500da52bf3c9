"""Python hooks of a policy, run in a process of their own: what does not answer in time is killed.

A thread cannot be ended, and one that spins or holds the interpreter's lock would take the supervisor with it; so hooks
get a process, started when first asked and again after it was killed. A hook sees a copy of the call and can change
nothing.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from crewkeeper_bus.orphan_guard import kill_group, popen_guarded, release
from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.gate.policy import HookFailed

START_LIMIT_S: Final = 15.0
"""For the process to start and to import every hook."""
_ANSWER_MAX_BYTES: Final = 256 * 1024
_END_LIMIT_S: Final = 5.0


class HookProcess:
    """Runs hooks, one question at a time. Safe to use from several threads; close it at the end.

    Args:
        names: Every hook that will be asked, as `module:name`.
        folder: Where their modules are looked for first.
        start_limit_s: How long starting and importing may take.
    """

    def __init__(self, names: Sequence[str], folder: Path, *, start_limit_s: float = START_LIMIT_S) -> None:
        """Start nothing yet."""
        self._names = tuple(names)
        self._folder = folder
        self._start_limit_s = start_limit_s
        self._lock = Lock()
        self._process: Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._errors: dict[str, str] = {}
        self._has_started = False
        self._asked = 0

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()

    def check(self) -> dict[str, str]:
        """Import every hook.

        Returns:
            What is wrong with each that cannot be used.

        Raises:
            HookFailed: The process does not start, or importing takes too long.
        """
        with self._lock:
            self._start()
            return dict(self._errors)

    def ask(self, hook: str, call: Call, deadline_s: float) -> bool | str:
        """Whether the hook says that its rule applies; a text is yes, and the reason.

        Starting the process, when that is needed, has its own limit, whoever starts it.

        Raises:
            HookFailed: It raised, returned something else, or did not answer in time and was killed.
        """
        limit_s = deadline_s if self._has_started else max(deadline_s, self._start_limit_s)
        if not self._lock.acquire(timeout=limit_s):
            raise HookFailed(f"the hook {hook} was not asked within {limit_s:g} s: others are being asked")
        try:
            self._start()
            question = {"hook": hook, "call": msgspec.to_builtins(call)}
            answer = self._exchange(question, deadline_s, f"the hook {hook} did not answer within {deadline_s:g} s")
        finally:
            self._lock.release()
        applies = answer.get("applies")
        if isinstance(applies, bool) or (isinstance(applies, str) and applies):
            return applies
        raise HookFailed(f"the hook {hook} failed: {self._errors.get(hook) or answer.get('error') or 'no answer'}")

    def close(self) -> None:
        """End the process; it may be started again by asking."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", f"{__package__}.hook_worker", str(theirs.fileno()), str(self._folder)]
        try:
            self._process = popen_guarded(command, pass_fds=(theirs.fileno(),))
        except OSError as error:
            ours.close()
            raise HookFailed(f"the process for hooks cannot be started: {error}") from None
        finally:
            theirs.close()
        self._link = ours
        answer = self._exchange(
            {"load": self._names}, self._start_limit_s, f"the hooks were not imported within {self._start_limit_s:g} s"
        )
        self._errors = answer.get("errors", {})
        self._has_started = True

    def _exchange(self, question: dict[str, Any], limit_s: float, late: str) -> dict[str, Any]:
        """Ask, and wait for the answer; whoever does not give it in time is killed."""
        assert self._link is not None
        self._asked += 1
        number, end = self._asked, time.monotonic() + limit_s
        try:
            self._link.settimeout(limit_s)
            self._link.sendall(msgspec.json.encode({"id": number, **question}) + b"\n")
            received = bytearray()
            while not received.endswith(b"\n"):
                if len(received) > _ANSWER_MAX_BYTES:
                    raise HookFailed("the process for hooks answered too much")
                self._link.settimeout(max(0.001, end - time.monotonic()))
                part = self._link.recv(65536)
                if not part:
                    raise HookFailed("the process for hooks ended by itself")
                received += part
            answer: dict[str, Any] = json.loads(received)
        except TimeoutError:
            self._end()
            raise HookFailed(f"{late} and was killed") from None
        except (OSError, ValueError, TypeError, OverflowError) as error:
            self._end()
            raise HookFailed(f"the process for hooks cannot be asked: {error}") from None
        except HookFailed:
            self._end()
            raise
        assert answer["id"] == number, "an answer to another question"
        return answer

    def _end(self) -> None:
        process, self._process, self._has_started = self._process, None, False
        if self._link is not None:
            self._link.close()
            self._link = None
        if process is None:
            return
        kill_group(process.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        with suppress(TimeoutExpired):
            process.wait(_END_LIMIT_S)
        release(process.pid)
