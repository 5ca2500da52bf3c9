"""What the log says of a link in trouble: the cause, once for each, harmless whoever wrote it."""

import errno
import json
import os

import pytest
from nats_process import linked

from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.shell.nats_link import WHY_MAX_CHARS, connect
from crewkeeper_supervisor.shell.place import Place

pytestmark = pytest.mark.live


async def test_the_log_says_once_why_the_server_is_not_reached(tmp_path, capsys):
    async with linked(tmp_path) as (_, link):
        report = link.nc._error_cb
        for code in (errno.EHOSTUNREACH, errno.EMFILE, errno.EMFILE):
            await report(OSError(code, os.strerror(code)))
        await link.nc._reconnected_cb()
        await report(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        await report(ValueError("\x1b[2J\u202e\n" + "x" * 999))
    rows = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    *known, hostile = [row for row in rows if row["event"] == "link.error"]
    too_many = f"[Errno {errno.EMFILE}] Too many open files"
    assert [row["error"] for row in known] == ["OSError"] * 3
    assert [row["cause"] for row in known][1:] == [too_many, too_many]
    assert hostile["cause"].isprintable()
    assert len(hostile["cause"]) == WHY_MAX_CHARS


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_a_server_that_refuses_the_login_is_not_called_absent(tmp_path, password):
    async with linked(tmp_path) as (server, _):
        there = Place(state=tmp_path, url=server.url, user="sup" if password else "", password=password)
        with pytest.raises(ConnectionLost, match="is there and refuses this login; check user and password"):
            async with connect(there):
                raise AssertionError("it was let in")
