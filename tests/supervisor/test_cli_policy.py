"""`supervisor policy` and `supervisor redact`, as people and pipes use them."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from crewkeeper_supervisor.cli.main import run

POLICY = """\
rules:
  - {id: writes, tools: ["files.write_*"], when: "!args.path.startsWith('out/')", do: deny, because: stay in out/}
  - {id: mail, tools: [mail], do: redact}
  - {id: judge, tools: [pay], hook: "judges:large", do: approve}
  - {id: try, tools: ["*"], when: "args.n > 1", do: deny, shadow: true}
policy:
  tests:
    - {name: outside, call: {agent: a, tool: files.write_x, args: {path: /etc}}, expect: deny, rule: writes}
    - {call: {agent: a, tool: mail, args: {to: b@example.com}}, expect: allow, redacted: {to: "[redacted:email]"}}
    - {call: {agent: a, tool: pay, args: {amount: 500}}, expect: approve}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "judges.py").write_text("def large(call):\n    return call['args']['amount'] > 100\n")
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return file


@pytest.fixture
def supervisor(capfd: pytest.CaptureFixture[str]):
    def command(*arguments: object) -> tuple[int, str, str]:
        code = run([str(each) for each in arguments])
        sys.stdout.flush()
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def piped(supervisor, monkeypatch: pytest.MonkeyPatch):
    def command(data: bytes, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return supervisor(*arguments)

    return command


def test_check_says_what_the_policy_is(supervisor, policy: Path):
    code, out, err = supervisor("policy", "check", policy)
    assert (code, err) == (0, "")
    assert "4 rules, 1 in shadow, 3 tests, otherwise allow; version " in out
    code, out, _ = supervisor("policy", "check", policy, "-o", "json")
    (file,) = json.loads(out)["files"]
    assert (code, file["ok"], file["rules"], file["shadow"], len(file["version"])) == (0, True, 4, ["try"], 32)


def test_check_points_at_every_mistake(supervisor, policy: Path):
    policy.write_text(POLICY.replace("args.path", "agrs.path").replace("do: approve", "do: aprove"))
    code, out, err = supervisor("policy", "check", policy)
    assert (code, out) == (3, "")
    assert f"{policy}:2:52: error: rules[0].when: nothing is named 'agrs' (did you mean 'args'?) [CREW-123]" in err
    assert "did you mean 'approve'" in err
    lines = err.split("\n")
    caret = next(index for index, line in enumerate(lines) if line.strip() == "^")
    assert lines[caret - 1][lines[caret].index("^") :].startswith("agrs.path")
    code, out, _ = supervisor("policy", "check", policy, "-o", "json")
    assert (code, len(json.loads(out)["files"][0]["problems"])) == (3, 2)


def test_check_imports_hooks_unless_told_not_to(supervisor, policy: Path):
    (policy.parent / "judges.py").write_text("large = 3\n")
    code, _, err = supervisor("policy", "check", policy)
    assert (code, "judges:large cannot be used: large is not a function" in err) == (3, True)
    assert supervisor("policy", "check", "--no-hooks", policy)[0] == 0


def test_test_tries_the_calls(supervisor, policy: Path):
    code, out, err = supervisor("policy", "test", policy)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["ok    outside", "ok    test-2", "ok    test-3", "3 of 3 tests passed"]


def test_a_test_that_fails_is_told_with_its_line(supervisor, policy: Path):
    policy.write_text(POLICY.replace("amount: 500", "amount: 5"))
    code, out, _ = supervisor("policy", "test", policy)
    assert code == 1
    assert f"{policy}:10: expected approve, got allow by the default" in out
    assert "2 of 3 tests passed" in out
    code, out, _ = supervisor("policy", "test", policy, "-o", "json")
    told = json.loads(out)
    assert (code, told["passed"], told["failed"], [each["ok"] for each in told["tests"]]) == (
        1,
        2,
        1,
        [True, True, False],
    )


def test_no_tests_are_said_so(supervisor, policy: Path):
    policy.write_text("rules: [{do: deny}]\n")
    code, out, err = supervisor("policy", "test", policy)
    assert (code, out, "no tests" in err) == (0, "", True)


def test_explain_shows_every_rule(supervisor, policy: Path):
    call = json.dumps({"agent": "a", "tool": "files.write_x", "args": {"path": "/etc"}})
    code, out, _ = supervisor("policy", "explain", policy, "--call", call)
    assert code == 0
    rows = out.splitlines()
    told = [" ".join(row.split()) for row in rows]
    assert told[0] == "writes deny decides: stay in out/ [!args.path.startsWith('out/') is true]"
    assert told[1] == "mail redact other call: tool is files.write_x"
    assert told[3] == "try deny not reached"
    assert rows[4] == "=> deny by rule writes, because stay in out/"
    assert rows[5].startswith("   policy version ")


def test_explain_as_data(supervisor, policy: Path):
    call = json.dumps({"agent": "a", "tool": "mail", "args": {"to": "b@example.com", "n": 3}})
    _, out, _ = supervisor("policy", "explain", policy, "--call", call, "-o", "json")
    told = json.loads(out)
    assert told["decision"]["effect"] == "allow"
    assert told["decision"]["shadow"] == [{"rule": "try", "do": "deny", "error": ""}]
    assert told["args"] == {"to": "[redacted:email]", "n": 3}
    assert [(each["rule"], each["outcome"]) for each in told["rules"]] == [
        ("writes", "other call"),
        ("mail", "redacts"),
        ("judge", "other call"),
        ("try", "shadow"),
    ]


def test_the_call_comes_from_a_file_or_a_pipe(piped, policy: Path, tmp_path: Path):
    call = json.dumps({"agent": "a", "tool": "pay", "args": {"amount": 500}})
    (tmp_path / "call.json").write_text(call)
    for arguments in (("--call", f"@{tmp_path / 'call.json'}"), ("--call", "-")):
        code, out, _ = piped(call.encode(), "policy", "explain", policy, *arguments)
        assert (code, "=> approve by rule judge" in out) == (0, True)


@pytest.mark.parametrize(
    "call", ["", "[]", "{", '{"tool": "x"}', '{"agent": "a", "tol": "x"}', '{"agent": "a", "hop": "x"}', "[" * 5000]
)
def test_a_call_that_cannot_be_read_is_a_mistake_of_usage(supervisor, policy: Path, call: str):
    code, out, err = supervisor("policy", "explain", policy, "--call", call)
    assert (code, out, "--call" in err) == (2, "", True)


def test_what_cannot_be_redacted_does_not_go_on(supervisor, policy: Path):
    call = '{"agent": "a", "tool": "mail", "args": {"x": ' + "[" * 300 + "]" * 300 + "}}"
    policy.write_text("rules: [{do: redact}]\n")
    code, out, err = supervisor("policy", "explain", policy, "--call", call)
    assert (code, out, "does not go on" in err) == (1, "", True)


SECRET = "sk" + "_live_aB3dE6gH9jK2mN5pQ8sT"


def test_redact_is_a_filter(piped):
    code, out, err = piped(f"mail bob@example.com\nkey {SECRET}\xff\n".encode("latin-1"), "redact", "--no-hash")
    assert (code, err) == (0, "")
    assert out.startswith("mail [redacted:email]\nkey [redacted:stripe_key]")


def test_redact_keeps_bytes_that_are_no_text():
    command = [sys.executable, "-m", "crewkeeper_supervisor.cli.main", "redact", "--no-hash"]
    done = subprocess.run(command, input=b"\xff\xfe bob@example.com \x80", capture_output=True, timeout=60, check=True)
    assert done.stdout == b"\xff\xfe [redacted:email] \x80"


def test_one_key_makes_placeholders_comparable_between_runs(piped, tmp_path: Path):
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef\n")
    one, two = (piped(b"bob@example.com", "redact", "--key-file", key)[1] for _ in range(2))
    assert one == two
    assert piped(b"bob@example.com", "redact")[1] != piped(b"bob@example.com", "redact")[1]
    key.write_bytes(b"short")
    assert piped(b"", "redact", "--key-file", key)[0] == 2


def test_redact_reports_and_checks(piped):
    code, _, err = piped(b"bob@example.com", "redact", "--report", "--no-hash")
    assert (code, json.loads(err)) == (0, {"kind": "email", "path": "", "digest": ""})
    assert piped(b"bob@example.com ann@example.com", "redact", "--check") == (1, "", "2 email\n")
    assert piped(b"nothing", "redact", "--check") == (0, "", "")


def test_redact_json_by_the_names_of_fields(piped):
    data = b'{"password": "x y", "a": [1]}'
    code, out, _ = piped(data, "redact", "--format", "json", "--no-hash")
    assert (code, json.loads(out)) == (0, {"password": "[redacted:secret_field]", "a": [1]})
    code, out, _ = piped(data + b"\n\n[]\n", "redact", "--format", "jsonl", "--no-hash")
    assert (code, out.count("\n")) == (0, 3)
    code, out, err = piped(data + b"\nnonsense\n", "redact", "--format", "jsonl")
    assert (code, out, "line 2" in err) == (3, "", True)


def test_redact_says_which_kinds_there_are(piped):
    code, out, _ = piped(b"", "redact", "--list")
    assert (code, "personal  iban" in out, "secrets   jwt" in out) == (0, True, True)
    text = f"bob@example.com {SECRET}".encode()
    assert piped(text, "redact", "--kinds", "email", "--no-hash")[1] == f"[redacted:email] {SECRET}"
    code, _, err = piped(text, "redact", "--kinds", "emial")
    assert (code, "emial" in err) == (2, True)
