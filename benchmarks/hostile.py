"""A client that obeys nothing, as a process: raw sockets that publish without pause and come back at once.

`python benchmarks/hostile.py URL USER PASSWORD SUBJECT CONNECTIONS REFUSALS` publishes on `SUBJECT.<n>` from several
connections of one identity, each message carrying the monotonic time of its sending in nanoseconds. It ends by itself
when every connection was refused REFUSALS times in a row, and prints how many logins and messages there were.
"""

import contextlib
import itertools
import json
import socket
import sys
import threading
import time
from urllib.parse import urlsplit

PAUSE_S = 0.0003
LOGIN_S = 5.0


class Hostile:
    def __init__(self, url: str, user: str, password: str, subject: str) -> None:
        address = urlsplit(url)
        self.address = (address.hostname or "", address.port or 0)
        options = {"user": user, "pass": password, "verbose": False, "pedantic": False, "lang": "raw", "version": "0"}
        self.greeting = b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n"
        self.subject = subject
        self.numbers = itertools.count()
        self.logins = 0
        self.sent = 0

    def churn(self, refusals: int) -> None:
        """Publish, and come back whenever cut off, until refused so often in a row."""
        refused = 0
        while refused < refusals:
            try:
                with socket.create_connection(self.address, timeout=LOGIN_S) as line:
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if self.login(line):
                        refused = 0
                        self.publish(line)
                    else:
                        refused += 1
            except OSError:
                time.sleep(PAUSE_S)

    def login(self, line: socket.socket) -> bool:
        line.sendall(self.greeting)
        heard = b""
        while b"PONG" not in heard:
            part = line.recv(4096)
            heard += part
            if not part or b"-ERR" in heard:
                return False
        self.logins += 1
        return True

    def publish(self, line: socket.socket) -> None:
        line.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                stamp = b"%d" % time.monotonic_ns()
                head = f"PUB {self.subject}.{next(self.numbers)} {len(stamp)}\r\n"
                line.sendall(head.encode() + stamp + b"\r\n")
                self.sent += 1
                with contextlib.suppress(BlockingIOError):
                    if not line.recv(4096):
                        return
                time.sleep(PAUSE_S)


def main() -> None:
    url, user, password, subject, connections, refusals = sys.argv[1:]
    hostile = Hostile(url, user, password, subject)
    threads = [threading.Thread(target=hostile.churn, args=(int(refusals),)) for _ in range(int(connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"logins": hostile.logins, "sent": hostile.sent}), flush=True)


if __name__ == "__main__":
    main()
