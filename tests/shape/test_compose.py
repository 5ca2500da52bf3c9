"""compose.yaml, Dockerfile and the servers' configuration: what they say is true of the code, and they run."""

import re
import shutil
import socket
import subprocess
from pathlib import Path

import anyio
import pytest
from composition import FILE, ROOT, SERVER_CONFIG, SERVERS, Composition, Unset, composed, read, until
from nats.js.api import StreamConfig

from crewkeeper_bus import server
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.cli.main import COMMANDS, cli
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place

# Digits and an e: what a configuration takes for a number unless it is quoted.
PASSWORDS = {"NATS_PASSWORD": "8675309e5", "NATS_ROUTE_PASSWORD": "31415926"}
CONTROLLERS = ("controller-1", "controller-2")
DOCKERFILE = ROOT / "Dockerfile"


def services():
    return read(PASSWORDS)["services"]


def own_environment_names() -> set[str]:
    sources = [
        file.read_text()
        for folder in ("bus", "agents", "supervisor", "examples")
        for file in (ROOT / folder).rglob("*.py")
    ]
    return {name for text in sources for name in re.findall(r"\b[A-Z][A-Z0-9_]+_[A-Z0-9_]+\b", text)}


def test_it_is_three_servers_two_controllers_and_a_crew():
    assert list(services()) == [*SERVERS, *CONTROLLERS, "crew"]
    for name, service in services().items():
        assert service["build"] == ".", f"{name} is another image"
        own_volume = {"/data", "/state"} & {volume.partition(":")[2] for volume in service["volumes"]}
        assert len(own_volume) == 1, f"{name} keeps nothing"
        assert name == "crew" or service["healthcheck"]["test"][0] == "CMD"
    volumes = {volume.partition(":")[0] for service in services().values() for volume in service["volumes"]}
    assert volumes == set(read(PASSWORDS)["volumes"])


@pytest.mark.parametrize("missing", PASSWORDS)
def test_no_password_stands_in_it_and_none_has_a_default(missing):
    given = {name: value for name, value in PASSWORDS.items() if name != missing}
    with pytest.raises(Unset, match=missing):
        read(given)
    for file in (FILE, SERVER_CONFIG, DOCKERFILE):
        for line in file.read_text().splitlines():
            found = re.search(r"(?i)(?:password|secret)\w*\s*[:=]\s*(\S+)", line.partition("#")[0])
            assert found is None or found[1].lstrip("'\"").startswith("$"), f"{file.name}: {line}"


def test_variables_are_documented_at_its_head():
    text = FILE.read_text()
    head = text[: text.index("\nname:")]
    used = set(re.findall(r"\$\{([A-Z_]+)", text)) | {
        name for service in services().values() for name, value in service["environment"].items() if value is None
    }
    documented = set(re.findall(r"^#   ([A-Z_]+)  ", head, re.MULTILINE))
    assert documented == used
    for name, default in re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text):
        assert re.search(rf"^#   {name}  +default: {default}$", head, re.MULTILINE), f"the default of {name}"


def test_every_command_parses_as_the_command_line_does():
    seen = set()
    for service in services().values():
        lines = [service["command"], service.get("healthcheck", {}).get("test", ["CMD", "python"])[1:]]
        for first, *words in lines:
            if first != "supervisor":
                assert first in ("nats-server", "python")
                continue
            name, command, rest = cli.resolve_command(cli.make_context("supervisor", list(words)), list(words))
            assert name in COMMANDS
            assert command is not None
            command.make_context(name, list(rest))  # raises on an unknown option or a missing argument
            seen.add(name)
    assert seen == {"serve", "up", "doctor"}


def test_environment_names_are_those_the_code_reads():
    known = own_environment_names()
    conf = set(re.findall(r"\$([A-Z_]+)", SERVER_CONFIG.read_text()))
    for name, service in services().items():
        given = set(service["environment"])
        assert given == conf if name in SERVERS else given <= known | {"OPS_WEBHOOK"}, name
    assert set(re.findall(r"^    (CREWKEEPER_\w+)=|ENV (\w+)=", DOCKERFILE.read_text(), re.MULTILINE)) >= {
        ("CREWKEEPER_STATE", "")
    }


def test_the_servers_take_what_the_embedded_one_takes():
    text = SERVER_CONFIG.read_text()
    for key, value in (
        ("max_payload", server.PAYLOAD_MAX_BYTES),
        ("max_buffered_msgs", server.INGEST_MAX_MESSAGES),
        ("max_buffered_size", server.INGEST_MAX_BYTES),
    ):
        assert re.search(rf"^\s*{key}: {value}$", text, re.MULTILINE), f"{key}: {value}"


def test_the_image_copies_only_what_is_there_and_let_in():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for line in DOCKERFILE.read_text().splitlines():
        words = [word for word in line.split() if not word.startswith("--")]
        if words[:1] != ["COPY"]:
            continue
        for source in words[1:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source.partition('/')[0]}" in ignore, f".dockerignore keeps {source} out"


def test_docker_compose_takes_it():
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed here")
    command = [docker, "compose", "--file", str(FILE), "config", "--quiet"]
    done = subprocess.run(command, env=PASSWORDS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def _in_cluster(address: str) -> None:
    with pytest.raises(ConnectionLost):
        async with connect(Place.of_url(f"supervisor:wrong@{address}", Path())):
            pass
    async with connect(Place.of_url(f"supervisor:{PASSWORDS['NATS_PASSWORD']}@{address}", Path())) as link:
        info = await link.ensure_stream(StreamConfig(name="PROBE", subjects=["probe.>"], num_replicas=3))
        assert info.cluster is not None
        assert {info.cluster.leader, *(peer.name for peer in info.cluster.replicas or ())} == set(SERVERS)
        assert await link.store("probe.x", b"kept three times") == 1
        await link.js.delete_stream("PROBE")


def _as_route(address: str) -> bytes:
    """What a server says to somebody who claims to be one of the cluster and has no password."""
    host, _, port = address.partition(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=10) as route:
        route.sendall(b'CONNECT {"name":"nats-4","cluster":"crewkeeper","server_id":"X"}\r\nPING\r\n')
        while chunk := route.recv(4096):
            said += chunk
    return said


def _owner(composition: Composition) -> str:
    return next((name for name in CONTROLLERS if "run.owned" in composition.output(name)), "")


@pytest.mark.slow
@pytest.mark.live
def test_the_example_crew_finishes_on_the_cluster_though_a_server_and_the_owner_die(tmp_path: Path):
    shutil.copytree(ROOT / "examples", tmp_path / "crew" / "crew")
    with composed(tmp_path, PASSWORDS) as composition:
        for name in SERVERS:
            done = composition.check(name)
            assert done.returncode == 0, done.stderr
        assert b"Authorization Violation" in _as_route(composition.ports["nats-1:6222"])
        anyio.run(_in_cluster, composition.ports["nats-2:4222"])
        for controller in CONTROLLERS:
            composition.start(controller)
        done = composition.check("controller-2")
        assert done.returncode == 0, done.stdout + done.stderr
        crew = composition.start("crew")
        owner = until(lambda: _owner(composition), "a controller owns the run")
        for lost in (owner, "nats-1"):
            composition.processes[lost].kill()
        assert crew.wait(300) == 0, "".join(map(composition.output, ("crew", *CONTROLLERS)))
        assert (composition.folder("crew") / "state" / "out" / "itinerary.md").is_file()
