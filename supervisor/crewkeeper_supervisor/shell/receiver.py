"""Receiver: a small local receiver of webhooks that checks signatures and prints what a person would get.

For the demo and for tests: it listens on the loopback address only and keeps what came in memory, up to a limit.
"""

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from standardwebhooks import Webhook as Verifier

SECRET_VARIABLE: Final = "OPS_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
PATH: Final = "/hook"
BODY_MAX_BYTES: Final = 64 * 1024
KEPT_MAX: Final = 1000
READ_LIMIT_S: Final = 10.0


class Received(Struct, frozen=True, kw_only=True):
    """One request that came in."""

    id: str
    """`webhook-id`: the same for repeated deliveries."""
    verified: bool
    problem: str
    """Why the signature was not accepted; empty if it was."""
    status: int
    """What was answered."""
    body: Any
    """Decoded JSON of a verified request, else None."""


def verify(secret: str, headers: dict[str, str], payload: bytes) -> Any:
    """The decoded body of a genuine request.

    Raises:
        ValueError: The signature, the age, or the body is not right. Whatever the headers hold, nothing else escapes.
    """
    try:
        return Verifier(secret).verify(payload, headers)
    except Exception as error:  # noqa: BLE001 - malformed headers raise half a dozen unrelated errors in the library
        text = str(error) if type(error).__name__ == "WebhookVerificationError" else "malformed headers or body"
        raise ValueError(text or type(error).__name__) from None


class Receiver:
    """A receiver on a loopback port. `with Receiver(secret) as receiver: ... receiver.url`.

    Args:
        secret: What requests must be signed with.
        port: 0: a free one.
        tell: Called with each received request, from the server's threads.
        answer: Status to answer a genuine request with, by its number from 1; may block to hang. Default: 204.
    """

    def __init__(
        self,
        secret: str,
        port: int = 0,
        *,
        tell: Callable[[Received], None] | None = None,
        answer: Callable[[int], int] | None = None,
    ) -> None:
        self._secret = secret
        self._tell = tell
        self._answer = answer
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._genuine = 0
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.receiver = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(READ_LIMIT_S)

    @property
    def url(self) -> str:
        """Where to send webhooks."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{PATH}"

    @property
    def received(self) -> list[Received]:
        """What came so far, oldest first; at most the newest thousand."""
        with self._lock:
            return list(self._received)

    def take(self, path: str, headers: dict[str, str], payload: bytes) -> int:
        """Judge one request and remember it; returns the status to answer with."""
        body, problem, status = None, "", 204
        if path != PATH:
            problem, status = "unknown path", 404
        else:
            try:
                body = verify(self._secret, headers, payload)
            except ValueError as error:
                problem, status = str(error), 401
        if not problem and self._answer is not None:
            with self._lock:
                self._genuine += 1
                number = self._genuine
            status = self._answer(number)
        message_id = next((value for key, value in headers.items() if key.lower() == "webhook-id"), "")[:200]
        received = Received(id=message_id, verified=not problem, problem=problem, status=status, body=body)
        with self._lock:
            self._received.append(received)
            del self._received[:-KEPT_MAX]
        if self._tell is not None:
            self._tell(received)
        return status


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    receiver: Receiver

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_LIMIT_S
    server: _Server

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and int(length[:10]) <= BODY_MAX_BYTES and len(length) < 10):
            self.send_error(413)
            return
        status = self.server.receiver.take(self.path, dict(self.headers.items()), self.rfile.read(int(length)))
        with contextlib.suppress(OSError):  # the sender did not wait
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing: a request's line is a stranger's text."""


def describe(received: Received) -> Iterator[str]:
    """What a person would get, as lines of plain text without control characters."""
    if not received.verified:
        yield f"webhook refused: {_plain(received.problem)}"
        return
    body = received.body if isinstance(received.body, dict) else {}
    data = body.get("data")
    facts: dict[str, Any] = data if isinstance(data, dict) else {}
    yield f"webhook {_plain(body.get('type', '?'))}  signature ok  id {_plain(received.id)}"
    for name, label in (("crew", "crew"), ("summary", "what"), ("ring", "ring"), ("look", "look")):
        if facts.get(name):
            yield f"  {label:<7} {_plain(facts[name])}"
    waits = facts.get("waits")
    for wait in waits if isinstance(waits, list) else []:
        if isinstance(wait, dict):
            yield f"  wait    {_plain(wait.get('text', ''))} (for {_plain(wait.get('for_s', '?'))} s)"
    victim = facts.get("victim")
    if isinstance(victim, dict):
        yield f"  victim  {_plain(victim.get('agent', ''))}: {_plain(victim.get('why', ''))}"
    steps = facts.get("steps")
    if isinstance(steps, list) and steps:
        yield f"  last    {_plain(steps[-1])}"


def _plain(value: object) -> str:
    return "".join(c if c.isprintable() else "�" for c in str(value)[:500])


def main() -> int:
    """Run a receiver until interrupted: `python -m crewkeeper_supervisor.shell.receiver --port 8099`."""
    parser = argparse.ArgumentParser(description=f"Receive webhooks; the secret is read from ${SECRET_VARIABLE}.")
    parser.add_argument("--port", type=int, default=0, help="port on the loopback address; 0: a free one")
    parser.add_argument("--ready-file", type=Path, help="write the address here once it listens")
    parser.add_argument("--json", action="store_true", help="print each request as a line of JSON")
    options = parser.parse_args()
    secret = os.environ.get(SECRET_VARIABLE, "")
    if not secret:
        sys.stderr.write(f"receiver: set {SECRET_VARIABLE} to the secret that requests are signed with\n")
        return 2
    with Receiver(secret, options.port, tell=_print_json if options.json else _print) as receiver:
        sys.stderr.write(f"receiver: listening on {receiver.url}\n")
        if options.ready_file:
            partial = options.ready_file.with_name(options.ready_file.name + ".part")
            partial.write_text(receiver.url)
            partial.replace(options.ready_file)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


def _print(received: Received) -> None:
    sys.stdout.write("\n".join(describe(received)) + "\n")
    sys.stdout.flush()


def _print_json(received: Received) -> None:
    sys.stdout.write(msgspec.json.encode(received).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
