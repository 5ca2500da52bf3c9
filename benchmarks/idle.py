"""Agents that log in, one after the other, and then do nothing: a process of its own, so that it costs nobody else.

`python benchmarks/idle.py URL` takes `[[user, password], …]` as JSON from its standard input, logs each in, prints the
seconds that each login took as JSON, and stays until its input ends.
"""

import json
import socket
import sys
import time
from urllib.parse import urlsplit

LOGIN_S = 10.0


def login(address: tuple[str, int], user: str, password: str) -> socket.socket:
    """A connection that is logged in."""
    line = socket.create_connection(address, timeout=LOGIN_S)
    options = {"user": user, "pass": password, "verbose": False, "pedantic": False, "lang": "raw", "version": "0"}
    line.sendall(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")
    heard = b""
    while b"PONG" not in heard:
        part = line.recv(4096)
        heard += part
        if not part or b"-ERR" in heard:
            raise ConnectionError(f"{user} is not let in: {heard[-200:]!r}")
    return line


def main() -> None:
    url = urlsplit(sys.argv[1])
    address = (url.hostname or "", url.port or 0)
    agents = json.loads(sys.stdin.readline())
    lines, took_s = [], []
    for user, password in agents:
        began_s = time.perf_counter()
        lines.append(login(address, user, password))
        took_s.append(time.perf_counter() - began_s)
    print(json.dumps(took_s), flush=True)
    sys.stdin.read()
    for line in lines:
        line.close()


if __name__ == "__main__":
    main()
