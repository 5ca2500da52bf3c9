"""Encryption of the embedded server's store: on by itself, kept over restarts and kills, and old stores taken over."""

import os
import signal
import stat

import msgspec
import pytest

from crewkeeper_bus import server as server_module
from crewkeeper_bus.errors import ServerError
from crewkeeper_bus.keys import JournalKey
from support.bus import plain_client, running_server, until

pytestmark = pytest.mark.live
MESSAGES = 200


def stored(state, mark):
    """Whether a text stands in any file of the store."""
    files = [file for file in (state / "server" / "store").rglob("*") if file.is_file()]
    assert files
    return any(mark in file.read_bytes() for file in files)


async def fill(server, mark, count=MESSAGES):
    async with plain_client(server) as client:
        stream = client.jetstream()
        await stream.add_stream(name="S", subjects=["s.>"])
        for number in range(count):
            await stream.publish(f"s.{number}", mark + str(number).encode())


async def holds(server, mark, count=MESSAGES):
    async with plain_client(server) as client:
        stream = client.jetstream()
        return [(await stream.get_msg("S", number + 1)).data for number in range(count)] == [
            mark + str(number).encode() for number in range(count)
        ]


async def test_what_is_stored_cannot_be_read_from_the_disk_and_is_there_after_a_restart(tmp_path):
    async with running_server(tmp_path) as server:
        await fill(server, b"SECRETMARK")
        assert await holds(server, b"SECRETMARK")
    key = tmp_path / "server" / "keys" / "journal.json"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = msgspec.json.decode(key.read_bytes(), type=JournalKey)
    assert len(made.key) >= 40
    assert made.key not in repr(made)
    assert made.key not in (tmp_path / "server" / "nats-server.conf").read_text()
    assert not stored(tmp_path, b"SECRETMARK")
    async with running_server(tmp_path) as server:
        assert await holds(server, b"SECRETMARK")
    assert msgspec.json.decode(key.read_bytes(), type=JournalKey) == made


async def test_a_store_that_was_not_encrypted_is_taken_over_whole(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(server_module, "INCLUDE_KEY", "")
        async with running_server(tmp_path) as server:
            await fill(server, b"OLDMARK")
    assert stored(tmp_path, b"OLDMARK")
    async with running_server(tmp_path) as server:
        assert await holds(server, b"OLDMARK")
    assert not stored(tmp_path, b"OLDMARK")
    async with running_server(tmp_path) as server:
        assert await holds(server, b"OLDMARK")


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path):
    async with running_server(tmp_path) as server:
        await fill(server, b"KILLMARK")
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: server._process.returncode is not None, "the server is dead")
    async with running_server(tmp_path) as server:
        assert await holds(server, b"KILLMARK")


async def test_a_key_that_others_could_read_is_refused(tmp_path):
    async with running_server(tmp_path):
        pass
    (tmp_path / "server" / "keys" / "journal.json").chmod(0o640)
    with pytest.raises(ServerError, match="others may have read"):
        async with running_server(tmp_path):
            pass


async def test_without_its_key_an_encrypted_store_is_not_taken_for_an_empty_one(tmp_path):
    async with running_server(tmp_path) as server:
        await fill(server, b"LOSTMARK", 1)
    key = tmp_path / "server" / "keys" / "journal.json"
    kept = key.rename(tmp_path / "kept.json")
    with pytest.raises(ServerError, match="restore it from a backup"):
        async with running_server(tmp_path):
            pass
    assert not key.exists()
    kept.rename(key)
    async with running_server(tmp_path) as server:
        assert await holds(server, b"LOSTMARK", 1)
