"""A real server whose journal holds a deadlock, and the commands that look at it, for the tests of these."""

import contextlib

import anyio
import pytest
from nats_process import nats_process, until
from told_runs import RUN, crew, deadlocked

from crewkeeper_bus.messages import RunEnded
from crewkeeper_bus.subjects import HOST
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.core.crew import Response, Responses
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.registry import Registry

OTHER = "shop-000002"


def declared(name):
    """A crew whose deadlocks need not stand any time: the server stores these entries within a few milliseconds."""
    return crew(name=name, responses=Responses(deadlock=Response(do=("break",), confirm_s=0.0)))


INCIDENT = next(iter(deadlocked(declared("trip")).fold.supervisor.incidents))


async def store(place):
    """Put a journal with a deadlock on the server, and a run that has ended beside it."""
    telling = deadlocked(declared("trip"))
    async with connect(place, name="test") as link:
        registry = Registry(link)
        await registry.open()
        for name in (OTHER, RUN):
            await journal.create_run(link, name, declared(name.partition("-")[0]), "here")
            await registry.declare(name, name.partition("-")[0], "here")
        await registry.set_state(OTHER, "done")
        for entry in telling.entries[1:]:
            await journal.publish(link, entry.subject, entry.payload)
        await journal.publish_op(link, OTHER, RunEnded(state="done", why="the work is done"), sender=HOST)
        await link.flush()

        async def stored():
            return (
                await journal.last_seq(link, RUN) == len(telling.entries) and await journal.last_seq(link, OTHER) == 2
            )

        await until(stored)


@contextlib.contextmanager
def stored_runs(directory):
    """The server, announced in this state directory."""
    with nats_process(directory) as server:
        anyio.run(store, server.place)
        server.announce()
        yield directory


def looker(state, capsys, monkeypatch):
    """What runs a command there, and returns its exit code, stdout and stderr."""
    monkeypatch.setenv("CREWKEEPER_STATE", str(state))
    monkeypatch.delenv("CREWKEEPER_NATS_URL", raising=False)

    def look_at(*arguments):
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return look_at


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """The state directory of a server with these runs; one for all tests of a file."""
    with stored_runs(tmp_path_factory.mktemp("state")) as directory:
        yield directory


@pytest.fixture
def look(state, capsys, monkeypatch):
    """What runs a command there."""
    return looker(state, capsys, monkeypatch)
