"""Each check of the doctor, and what it says when something is wrong."""

import asyncio
import json
import socket
import ssl

import pytest
from anyio.streams.tls import TLSStream
from nats_process import nats_process

from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.cli.doctor import clock_check, credentials, jetstream, server_checks
from crewkeeper_supervisor.cli.doctor_crew import crew_checks, reached, webhook_check
from crewkeeper_supervisor.cli.doctor_machine import directory, machine_checks, open_files, private_files, room
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.core.scope import Record, Token
from crewkeeper_supervisor.shell.authority import make_config_block
from crewkeeper_supervisor.shell.ground import Ground

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CREWKEEPER_STATE", "CREWKEEPER_NATS_URL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def examined(capsys, *arguments):
    code = run(["doctor", "-o", "json", *arguments])
    report = json.loads(capsys.readouterr().out)
    return code, report, {check["name"]: check for check in report["checks"]}


def test_without_a_server_it_warns_and_names_the_command(capsys):
    code, report, checks = examined(capsys)
    assert code == 0
    assert report["ok"]
    assert checks["python"]["grade"] == checks["nats-server"]["grade"] == "ok"
    assert checks["server"] == {
        "name": "server",
        "grade": "warn",
        "text": checks["server"]["text"],
        "fix": "supervisor up crew.yaml",
    }


def test_a_server_that_does_not_answer_is_a_failure(capsys):
    code, report, checks = examined(capsys, "--nats", "nats://127.0.0.1:9")
    assert code == 1
    assert not report["ok"]
    assert checks["server"]["grade"] == "fail"
    assert "--nats" in checks["server"]["fix"]


@pytest.mark.live
def test_a_good_server(tmp_path, capsys):
    with nats_process(tmp_path) as server:
        server.announce()
        code, _, checks = examined(capsys, "--state", str(tmp_path))
    assert code == 0
    assert checks["server"]["grade"] == checks["jetstream"]["grade"] == "ok"
    assert checks["streams"]["grade"] == "warn"


@pytest.mark.live
def test_of_several_servers_each_is_tried(tmp_path, capsys):
    with nats_process(tmp_path) as server:
        url, host = Ground(server.place).address, server.place.host
        _, _, checks = examined(capsys, "--nats", f"nats://127.0.0.1:9,{url}")
        assert checks["server"]["grade"] == "warn"
        assert checks["server"]["text"] == f"reached at {host}, and not at 127.0.0.1:9"
        _, _, checks = examined(capsys, "--nats", url, "--nats", url)
        assert (checks["server"]["grade"], checks["server"]["text"]) == ("ok", f"reached at {host}, {host}")


@pytest.mark.live
def test_what_cannot_be_enforced_is_a_warning(tmp_path, capsys):
    with nats_process(tmp_path) as server:
        url = f"nats://sup:{server.password}@127.0.0.1:{server.port}"
        code, _, checks = examined(capsys, "--state", str(tmp_path), "--nats", url)
        assert code == 0
        assert checks["enforcement"]["grade"] == "warn"
        assert checks["enforcement"]["text"].startswith("observe: Nothing is enforced")
        make_config_block(tmp_path)
        code, _, checks = examined(capsys, "--state", str(tmp_path), "--nats", url)
        assert code == 1
        assert "does not take our key for logins" in checks["enforcement"]["text"]
        (tmp_path / "keys").chmod(0o755)
        code, _, checks = examined(capsys, "--state", str(tmp_path), "--nats", f"nats://127.0.0.1:{server.port}")
        assert code == 1
        assert "chmod 700" in checks["keys"]["text"]


@pytest.mark.live
async def test_an_embedded_server_enforces_everything(tmp_path):
    async with EmbeddedServer(tmp_path / "state"):
        checks = {check.name: check for check in await server_checks(tmp_path / "state", None)}
        machine = {check.name: check for check in machine_checks(tmp_path / "state")}
    assert (machine["state"].grade, machine["secrets"].grade) == ("ok", "ok")
    assert int(machine["secrets"].text.split()[0]) >= 3, "its keys, its configuration, what it is reached by"
    assert checks["credentials"].grade == "ok"
    assert checks["enforcement"].grade == "ok"
    assert checks["enforcement"].text.startswith("operator: The server enforces everything")


def test_a_bad_crew_file_fails(tmp_path, capsys):
    (tmp_path / "crew.yaml").write_text("crew: one\nagents:\n  a: {rn: x}\n")
    code, _, checks = examined(capsys, "crew.yaml")
    assert code == 1
    assert checks["crew crew.yaml"]["fix"] == "supervisor crew check crew.yaml"


def test_lines_for_people(capsys):
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok ")
    assert "fix: supervisor up crew.yaml" in out


@pytest.mark.parametrize(("skew_s", "grade"), [(0.2, "ok"), (-0.9, "ok"), (-5, "warn"), (90, "fail")])
def test_clocks(skew_s, grade):
    assert clock_check(skew_s).grade == grade


def test_a_webhook_of_this_machine_needs_no_encryption_where_that_is_allowed():
    local = Webhook(webhook="http://127.0.0.1:80/x", secret=SECRET, allow_private=True)
    assert webhook_check(local, {}).grade == "ok"


@pytest.mark.parametrize(
    ("webhook", "secret", "grade", "text"),
    [
        ("https://ops.example/x", SECRET, "ok", "right form"),
        ("http://ops.example/x", SECRET, "fail", "not encrypted"),
        ("https://ops.example/x", "", "warn", "no secret"),
        ("https://ops.example/x", "hunter2", "fail", "whsec_"),
        ("ops.example", SECRET, "fail", "no http"),
        ("${URL}", "${SECRET}", "ok", "right form"),
        ("${NO_SUCH}", "${SECRET}", "warn", "NO_SUCH"),
    ],
)
def test_webhooks(webhook, secret, grade, text):
    check = webhook_check(
        Webhook(webhook=webhook, secret=secret), {"URL": "https://a.example/s3cret", "SECRET": SECRET}
    )
    assert check.grade == grade
    assert text in check.text
    assert SECRET not in str(check)
    assert "s3cret" not in str(check)
    assert "s3cret" not in check.name + check.fix


@pytest.mark.parametrize(
    ("changes", "grade", "text"),
    [
        ({"previous_secret": "${OLD}"}, "warn", "not set here: OLD"),
        ({"previous_secret": SECRET}, "warn", "nothing was rotated"),
        ({"previous_secret": SECRET[:-4] + "abcd"}, "warn", "not finished"),
        ({"previous_secret": "whsec_%%%"}, "fail", "whsec_"),
        ({"format": "pagerduty", "secret": "", "routing_key": "${KEY}"}, "warn", "not set here: KEY"),
        ({"format": "slack", "secret": ""}, "ok", "right form"),
        ({"secret": "${EMPTY}"}, "warn", "EMPTY"),
    ],
)
def test_secrets_in_rotation_and_keys_of_services(changes, grade, text):
    hook = Webhook(**{"webhook": "https://ops.example/x", "secret": SECRET, **changes})
    check = webhook_check(hook, {"EMPTY": ""})
    assert (check.grade, text in check.text) == (grade, True), check


async def test_a_webhook_is_connected_to_and_sent_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        hook = "{{webhook: '{}://127.0.0.1:{}/hunter2', secret: '${{SECRET}}', allow_private: {}}}"
        hooks = [hook.format(*each) for each in (("http", port, "true"), ("https", port, "false"), ("http", 1, "true"))]
        file = tmp_path / "crew.yaml"
        file.write_text("crew: c\nagents: {a: {run: 'true', may_call: []}}\nescalate:\n  - " + "\n  - ".join(hooks))
        _, fine, private, closed = await crew_checks(file)
        link, _ = listening.accept()
        with link:
            assert link.recv(100) == b""
    assert (fine.grade, "can be reached" in fine.text) == ("ok", True)
    assert (private.grade, "private or loopback" in private.text) == ("fail", True)
    assert (closed.grade, closed.text.endswith("at port 1: Connection refused")) == ("fail", True)
    assert closed.fix.startswith("curl -sv http://127.0.0.1:1/ ")
    assert "hunter2" not in f"{fine} {private} {closed}"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["hangs up", "speaks http"])
async def test_a_receiver_that_begins_no_tls_is_none(said):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        hook = Webhook(webhook=url, secret=SECRET, allow_private=True)
        check = await reached(hook, {}, webhook_check(hook, {}))
    assert (check.grade, "not permitted" in check.text, "TLS" in check.text) == ("fail", False, True)


async def test_a_receiver_without_a_good_certificate_is_none(monkeypatch):
    async def wrap(*_: object, **__: object) -> None:
        error = ssl.SSLCertVerificationError("verify failed")
        error.verify_message = "certificate has expired"
        raise error

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        hook = Webhook(webhook=url, secret=SECRET, allow_private=True)
        plain = await reached(hook, {}, webhook_check(hook, {}))
        monkeypatch.setattr(TLSStream, "wrap", wrap)
        expired = await reached(hook, {}, webhook_check(hook, {}))
    assert (plain.grade, "cannot be reached from here" in plain.text) == ("fail", True)
    assert (expired.grade, "certificate is not good: certificate has expired" in expired.text) == ("fail", True)


@pytest.mark.parametrize(
    ("soft", "grade"), [(-1, "ok"), (1_048_576, "ok"), (1024, "ok"), (1023, "warn"), (255, "fail")]
)
def test_open_files(soft, grade):
    check = open_files(soft)
    assert check.grade == grade
    assert bool(check.fix) is (grade != "ok")


@pytest.mark.parametrize(("free_bytes", "grade"), [(2 * 1024**3, "ok"), (1024**3, "warn"), (1024**2, "fail")])
def test_room_on_the_disk(tmp_path, free_bytes, grade):
    check = room(tmp_path, free_bytes)
    assert (check.grade, str(tmp_path) in check.text) == (grade, True)


def test_a_state_directory_that_others_get_into(tmp_path, monkeypatch):
    state = tmp_path / "a state"
    assert [check.name for check in machine_checks(state)] == ["open files"], "there is none yet"
    state.mkdir(mode=0o700)
    assert directory(state).grade == "ok"
    state.chmod(0o755)
    assert directory(state).grade == "warn"
    state.chmod(0o770)
    assert directory(state).grade == "fail"
    assert directory(state).fix == f"chmod 700 '{state}'"
    monkeypatch.setattr("os.geteuid", lambda: state.stat().st_uid + 1)
    assert "another user" in directory(state).text


def test_secrets_that_others_may_read(tmp_path):
    state = tmp_path / "state"
    for name in ("keys/journal.json", "runs/trip-1/credentials/e.json", "runs/trip-1/_tools.json", "server.json"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("{}")
        (state / name).chmod(0o600)
    (state / "nats-server.log").touch(mode=0o644)
    (state / "keys" / "gone").symlink_to("/nowhere")
    state.chmod(0o700)
    assert (private_files(state).grade, private_files(state).text[:7]) == ("ok", "4 files")
    (state / "runs/trip-1/_tools.json").chmod(0o640)
    behind = private_files(state)
    assert (behind.grade, "runs/trip-1/_tools.json" in behind.text) == ("warn", True)
    state.chmod(0o755)
    assert private_files(state).grade == "fail"
    assert private_files(state).fix == f"chmod -R go-rwx {state}"


@pytest.mark.parametrize(
    ("used", "grade", "text"),
    [
        ({}, "ok", "5 streams, 1 KiB stored"),
        ({"streams": (10**6, -1)}, "ok", "streams"),
        ({"consumers": (95, 100)}, "warn", "95 of 100 consumers"),
        ({"bytes": (2000, 2000)}, "fail", "2,000 of 2,000 bytes"),
    ],
)
def test_limits_of_the_account(used, grade, text):
    check = jetstream({"streams": (5, -1), "consumers": (5, 100), "bytes": (1024, 2000)} | used)
    assert (check.grade, text in check.text) == (grade, True), check


def test_agents_that_can_log_in_no_more():
    def record(agent, *ends_s, **more):
        tokens = tuple(Token(id=f"t{end}", digest="d", issued_at=0.0, expires_at=end) for end in ends_s)
        return Record(run="r1", agent=agent, role=agent, tokens=tokens, **more)

    fine = [record("a", 10.0, 99_999.0), record("b"), record("_tools", 10.0), record("c", 10.0, over=True)]
    (check,) = credentials([*fine, record("d", 10.0, state="killed")], 1000.0)
    assert (check.grade, check.text) == ("ok", "of 2 agents in force")
    expired, soon = credentials([*fine, record("e", 10.0), record("f", 1600.0)], 1000.0)
    assert (expired.grade, "those of e in r1 have expired" in expired.text) == ("warn", True)
    assert expired.fix == "supervisor creds issue --run r1 --agent e"
    assert "those of f in r1 expire within 10 min" in soon.text
    assert len(credentials([record(f"x{n}", 1.0) for n in range(100)], 1000.0)) == 10
