"""Where the state and the server are."""

import json
import os
from pathlib import Path

import pytest

from crewkeeper_bus.errors import ConfigError
from crewkeeper_bus.keys import keyring
from crewkeeper_supervisor.shell.authority import make_config_block
from crewkeeper_supervisor.shell.errors import NothingRuns
from crewkeeper_supervisor.shell.ground import Ground
from crewkeeper_supervisor.shell.place import Place, state_dir


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    for name in ("CREWKEEPER_STATE", "CREWKEEPER_NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(directory: Path, **values):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "server.json").write_text(json.dumps(values))


def test_the_state_directory_is_the_flag_then_the_variable_then_the_nearest(nowhere, monkeypatch):
    assert state_dir() == nowhere / ".crewkeeper"
    (nowhere / ".crewkeeper").mkdir()
    deep = nowhere / "x" / "y"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert state_dir() == nowhere / ".crewkeeper"
    monkeypatch.setenv("CREWKEEPER_STATE", str(nowhere / "named"))
    assert state_dir() == nowhere / "named"
    assert state_dir(Path("given")) == deep / "given"


def test_what_is_no_nats_address_is_refused_before_anybody_is_called(nowhere):
    with pytest.raises(ConfigError, match=r"http:// .* write nats://host:4222"):
        Place.find(nowhere, "http://127.0.0.1:8222")


def test_the_server_file_gives_access_and_its_secret_is_not_shown(nowhere):
    write(nowhere / "s", url="nats://127.0.0.1:5", user="sup", password="canary-pw", pid=os.getpid())
    place = Place.find(nowhere / "s")
    assert (place.url, place.user, place.password, place.host) == (
        "nats://127.0.0.1:5", "sup", "canary-pw", "127.0.0.1:5",
    )  # fmt: skip
    assert "canary-pw" not in f"{place!r} {place}"


def test_an_address_wins_over_the_file_and_may_carry_credentials(nowhere, monkeypatch):
    write(nowhere / ".crewkeeper", url="nats://127.0.0.1:5", user="u", password="p", pid=os.getpid())
    monkeypatch.setenv("CREWKEEPER_NATS_URL", "nats://bob:p%40ss@example:4222")
    place = Place.find()
    assert (place.url, place.user, place.password) == ("nats://example:4222", "bob", "p@ss")
    assert Place.find(nats="other:1").url == "nats://other:1"


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"url": 5}', b"\xff"])
def test_nothing_there_or_unreadable_names_what_was_looked_for(nowhere, content):
    if content is not None:
        (nowhere / ".crewkeeper").mkdir()
        (nowhere / ".crewkeeper" / "server.json").write_bytes(content)
    with pytest.raises(NothingRuns, match=r"server\.json.*supervisor up crew\.yaml"):
        Place.find()


def test_a_server_that_is_gone_is_said(nowhere):
    dead = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(dead, 0)
    write(nowhere / ".crewkeeper", url="nats://127.0.0.1:5", pid=dead)
    with pytest.raises(NothingRuns, match=f"process {dead}"):
        Place.find()


def test_the_keys_of_a_directory_open_an_existing_server(nowhere):
    make_config_block(nowhere / "s")
    place = Place.find(nowhere / "s", "nats://h:4222")
    authority = place.authority()
    assert (place.url, authority.mode) == ("nats://h:4222", "config")
    assert place.seed == authority.supervisor.seed != ""
    assert place.seed not in f"{place!r} {place} {place.credentials!r} {authority!r}"
    assert Place.find(nowhere / "s", "nats://me:pw@h:4222").seed == ""
    assert Place.find(nowhere / "other", "nats://h:4222").authority().mode == "observe"


def test_the_server_file_says_whose_keys_are_meant(nowhere):
    keyring(nowhere / "s")
    make_config_block(nowhere / "s")
    write(
        nowhere / "s",
        url="nats://127.0.0.1:5",
        user="_supervisor",
        jwt="canary-jwt",
        seed="canary-seed",
        pid=os.getpid(),
    )
    place = Place.find(nowhere / "s")
    assert (place.jwt, place.seed, place.authority().mode) == ("canary-jwt", "canary-seed", "operator")
    assert "canary" not in f"{place!r} {place}"
    assert Place.find(nowhere / "s", "nats://127.0.0.1:5").authority().mode == "operator"
    assert Place.find(nowhere / "s", "nats://127.0.0.1:6").authority().mode == "config"


def test_several_servers_of_a_cluster_have_one_login(nowhere):
    place = Place.of_url("nats://bob:p%40ss@a:1, b:2 ,tls://c:3", nowhere)
    assert (place.url, place.user, place.password) == ("nats://a:1,nats://b:2,tls://c:3", "bob", "p@ss")
    assert place.host == "a:1, b:2, c:3"
    assert Place.of_url(Ground(place).address, nowhere) == place, "as those that are started get it"
    assert "p@ss" not in repr(place)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nats://a:1,http://b:2", "http:// is not how a NATS server is reached"),
        ("nats://x:1@a:1,nats://y:2@b:2", "take one login"),
        ("nats://a:1,ws://b:2", "websockets"),
        ("nats://bob:pa,ss@a:1", "%2C for a comma"),
        (",".join(f"nats://a{number}:1" for number in range(17)), "17 servers are more than 16"),
    ],
)
def test_servers_that_cannot_be_of_one_cluster_are_refused(nowhere, url, said):
    with pytest.raises(ConfigError, match=said):
        Place.of_url(url, nowhere)
