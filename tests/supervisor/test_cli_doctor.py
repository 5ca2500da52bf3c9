"""Each check of the doctor, and what it says when something is wrong."""

import json

import pytest
from nats_process import nats_process

from crewkeeper_bus.server import EmbeddedServer
from crewkeeper_supervisor.cli.doctor import clock_check, server_checks, webhook_check
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.shell.authority import make_config_block

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
