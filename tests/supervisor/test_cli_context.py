"""Contexts: kept privately, chosen in the right order, those of the `nats` command read and never written."""

import json
import stat

import pytest

from crewkeeper_bus.errors import ConfigError
from crewkeeper_supervisor.cli import failure, main
from crewkeeper_supervisor.shell import contexts
from crewkeeper_supervisor.shell.errors import NothingRuns
from crewkeeper_supervisor.shell.place import Place

CREDS = """-----BEGIN NATS USER JWT-----
eyJ0eXAiOiJKV1QifQ.e30.sig
------END NATS USER JWT------

************************* IMPORTANT *************************
-----BEGIN USER NKEY SEED-----
SUABC
------END USER NKEY SEED------
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("CREWKEEPER_STATE", "CREWKEEPER_NATS_URL", "CREWKEEPER_QUIET", "CREWKEEPER_NO_INPUT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def nats_context(home, name, **fields):
    folder = home / "config" / "nats" / "context"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps(fields))
    return file


def supervisor(capsys, *arguments):
    code = main.run(["context", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_context_is_added_used_shown_and_removed(home, capsys, monkeypatch):
    monkeypatch.setenv("PROD_PASSWORD", "s3cret-word")
    add = ("add", "prod", "--nats", "nats://example.com:4222", "--user", "ann", "--password-env", "PROD_PASSWORD")
    assert supervisor(capsys, *add, "--dry-run")[0] == 0
    assert contexts.ls() == []
    assert supervisor(capsys, *add)[0] == 0
    file = contexts.folder() / "prod.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert supervisor(capsys, *add)[0] == failure.INVALID
    assert supervisor(capsys, "use", "prod")[0] == 0
    for words in (("ls",), ("ls", "-o", "wide"), ("ls", "-o", "json"), ("show",), ("show", "prod", "-o", "yaml")):
        code, out, err = supervisor(capsys, *words)
        assert code == 0
        assert "prod" in out
        assert "s3cret-word" not in out + err
    assert supervisor(capsys, "ls", "-o", "name")[1] == "prod\n"
    assert "s3cret-word" not in repr(contexts.get("prod"))
    place = Place.find()
    assert (place.url, place.user, place.password) == ("nats://example.com:4222", "ann", "s3cret-word")
    assert supervisor(capsys, "rm", "prod")[0] == failure.USAGE
    assert supervisor(capsys, "rm", "prod", "--yes")[0] == 0
    assert (contexts.ls(), contexts.in_use()) == ([], "")


def test_what_is_nearer_goes_before(home, monkeypatch):
    for name in ("used", "chosen"):
        contexts.add(contexts.Context(name=name, url=f"nats://{name}:4222"))
    contexts.use("used")
    assert Place.find().host == "used:4222"
    state = home / ".crewkeeper"
    state.mkdir()
    with pytest.raises(NothingRuns):
        Place.find()
    (state / "server.json").write_text(json.dumps({"url": "nats://127.0.0.1:5", "user": "u", "password": "p"}))
    assert Place.find().host == "127.0.0.1:5"
    monkeypatch.setenv("CREWKEEPER_NATS_URL", "nats://variable:4222")
    assert Place.find().host == "variable:4222"
    token = contexts.chosen.set("chosen")
    try:
        assert Place.find().host == "chosen:4222"
        assert Place.find(nats="nats://option:4222").host == "option:4222"
    finally:
        contexts.chosen.reset(token)


def test_a_named_state_directory_is_not_passed_over(home, capsys, monkeypatch):
    contexts.add(contexts.Context(name="prod", url="nats://prod:4222"))
    contexts.use("prod")
    assert main.run(["ps", "--state", str(home / "empty")]) == failure.UNREACHABLE
    assert "nothing runs here" in capsys.readouterr().err


def test_what_has_ended_is_not_watched(home, capsys, monkeypatch):
    monkeypatch.setattr("crewkeeper_bus.server.EmbeddedServer", None)
    (home / ".crewkeeper" / "store").mkdir(parents=True)
    assert main.run(["agent", "ls", "--watch"]) == failure.UNREACHABLE
    assert "nothing runs here" in capsys.readouterr().err


def test_the_option_lasts_one_command(capsys):
    contexts.add(contexts.Context(name="prod", url="nats://127.0.0.1:9"))
    assert main.run(["config", "view", "--context", "prod", "-o", "json"]) == 0
    server = json.loads(capsys.readouterr().out)["items"][0]
    assert (server["value"], server["source"]) == ("nats://127.0.0.1:9", "--context prod")
    assert contexts.chosen.get() == ""
    assert main.run(["ps", "--context", "prud"]) == failure.NOT_FOUND
    assert main.run(["up", "crew.yaml", "--context", "prod"]) == failure.USAGE
    assert "--nats" in capsys.readouterr().err


def test_contexts_of_the_nats_command_are_read_and_never_written(home, capsys):
    creds = home / "a.creds"
    creds.write_text(CREDS)
    files = [
        nats_context(home, "plain", url="nats://plain:4222,nats://other:4222", user="bob", password="pw"),
        nats_context(home, "jwt", url="tls://jwt:4222", creds=str(creds)),
        nats_context(home, "certified", url="tls://x:4222", cert="/a.pem", token="t0k3n"),
        nats_context(home, "hostile", url="nats://\x1b[2J:4222"),
    ]
    (home / "config" / "nats" / "context" / "broken.json").write_text("{")
    before = [file.read_bytes() for file in files]
    code, out, _ = supervisor(capsys, "ls")
    assert code == 0
    assert "nats:plain" in out
    with pytest.raises(contexts.ContextNotFound, match="which is nats:plain here"):
        contexts.get("plain")
    assert "\x1b" not in out
    assert "t0k3n" not in out
    assert contexts.get("nats:plain").credentials().user == "bob"
    assert Place.of_context("nats:plain", home).url == "nats://plain:4222,nats://other:4222"
    credentials = contexts.get("nats:jwt").credentials()
    assert (credentials.jwt, credentials.seed) == ("eyJ0eXAiOiJKV1QifQ.e30.sig", "SUABC")
    assert supervisor(capsys, "show", "nats:certified")[0] == failure.INVALID
    with pytest.raises(ConfigError, match="token"):
        contexts.get("nats:certified")
    assert supervisor(capsys, "rm", "nats:plain", "--yes")[0] == failure.INVALID
    assert supervisor(capsys, "use", "nats:plain")[0] == 0
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("name", ["../../etc/passwd", "nats:../x", "", "a b", "-x"])
def test_a_name_is_no_path(name, capsys):
    assert main.run(["context", "show", "--", name]) in (failure.NOT_FOUND, failure.FAILED)
    assert main.run(["context", "add", "--nats", "nats://h:4222", "--", name]) == failure.INVALID
    assert not contexts.folder().exists()


def test_a_password_is_not_taken_from_the_command_line(capsys):
    code, _, err = supervisor(capsys, "add", "prod", "--nats", "nats://ann:secret@h:4222")
    assert code == failure.INVALID
    assert "--password-env" in err
    assert contexts.ls() == []


def test_a_context_may_name_several_servers_of_a_cluster(capsys):
    code, out, _ = supervisor(capsys, "add", "prod", "--nats", "nats://a:4222, b:4222", "--nats", "nats://c:4222")
    assert code == 0
    three = "nats://a:4222,nats://b:4222,nats://c:4222"
    assert f"added prod: {three}" in out
    assert contexts.get("prod").url == three
    assert three in supervisor(capsys, "show", "prod")[1]


def test_config_shows_every_server_and_no_login_of_any(capsys, monkeypatch):
    monkeypatch.setenv("CREWKEEPER_NATS_URL", "nats://ann:s3cret@a:4222,nats://ann:s3cret@b:4222")
    assert main.run(["config", "view", "--sources"]) == 0
    out = capsys.readouterr().out
    assert "s3cret" not in out
    assert out.splitlines()[1].split() == ["server", "nats://a:4222,nats://b:4222", "CREWKEEPER_NATS_URL", "-"]
    assert main.run(["config", "view", "--sources", "--nats", "x:1", "--nats", "y:1"]) == 0
    told = capsys.readouterr().out.splitlines()[1].split()
    assert told == ["server", "nats://x:1,nats://y:1", "--nats", "CREWKEEPER_NATS_URL"]


def test_config_tells_where_settings_come_from(home, capsys, monkeypatch):
    monkeypatch.setenv("CREWKEEPER_NATS_URL", "nats://ann:s3cret@variable:4222")
    monkeypatch.setenv("CREWKEEPER_REPLICAS", "3")
    contexts.add(contexts.Context(name="prod", url="nats://prod:4222"))
    contexts.use("prod")
    assert main.run(["config", "view", "--sources"]) == 0
    out = capsys.readouterr().out
    assert "s3cret" not in out
    server, login, *_ = out.splitlines()[1:]
    assert server.split() == ["server", "nats://variable:4222", "CREWKEEPER_NATS_URL", "context", "prod", "(in", "use)"]
    assert login.split()[:2] == ["login", "ann"]
    assert main.run(["config", "view", "-o", "json"]) == 0
    items = {item["name"]: item for item in json.loads(capsys.readouterr().out)["items"]}
    assert (items["replicas"]["value"], items["replicas"]["source"]) == ("3", "CREWKEEPER_REPLICAS")
    assert items["quiet"]["source"] == "default"
