"""`up --dry-run`: what it says, what it finds missing, and that it touches nothing."""

import pytest

from crewkeeper_bus import server
from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.main import run

CREW = """\
crew: shop
objective: Buy what is on the list
agents:
  buyer:  {run: "python -c 'print(1)'", replicas: 2, may_call: [guest], tools: [look]}
  guest:  {external: true, may_call: []}
tools:
  look: {command: python look.py, schema: {type: object}}
budget: {usd: 5.00, tokens: 400k, wall: 2h, depth: 3}
rules:
  - {tools: [look], do: approve, because: somebody has to see it}
responses:
  deadlock: {do: [break]}
  loop: {do: [warn, hold], shadow: true}
escalate:
  - {webhook: "${OPS_WEBHOOK}", secret: "${OPS_WEBHOOK_SECRET}", format: slack}
"""


@pytest.fixture
def plan(tmp_path, capsys, monkeypatch):
    """What runs the command on a crew file, and returns its exit code, stdout and stderr."""
    for name in ("CREWKEEPER_NATS_URL", "CREWKEEPER_STATE", "OPS_WEBHOOK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def planned(text=CREW, *more):
        (tmp_path / "crew.yaml").write_text(text)
        code = run(["up", "--dry-run", "crew.yaml", *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return planned


def test_it_says_what_would_be_and_touches_nothing(plan, tmp_path):
    code, out, err = plan()
    assert code == 0, err
    lines = {line.split()[0]: line.strip() for line in out.splitlines() if line.strip()}
    assert lines["state"].endswith(".crewkeeper (new)")
    assert "embedded nats-server" in lines["server"]
    assert lines["starts"] == "starts  1 nats-server, 1 controller, 2 agents, 1 tool host"
    assert lines["buyer"].split()[1] == "x2"
    assert "python -c 'print(1)'" in lines["buyer"]
    assert "started elsewhere" in lines["guest"]
    assert lines["tools"] == "tools     look (python look.py)"
    assert lines["budget"] == "budget    $5.00, 400000 tokens, depth 3, 2h00m"
    assert "deadlock: break; loop: would warn, hold; the others as usual" in lines["findings"]
    assert lines["told"] == "told      ${OPS_WEBHOOK} (NOT SET) as slack"
    assert "operator has 15m00s to approve" in lines["people"]
    assert "nothing was started" in err
    assert [each.name for each in tmp_path.iterdir()] == ["crew.yaml"]
    assert "starts  1 nats-server, 2 agents, 1 tool host" in plan(CREW, "--no-controller")[1]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://hooks.example/services/T0/hunter2", "hooks.example (NOT SET) as slack"),
        ("https://hooks.example/${OPS_WEBHOOK}", "hooks.example (${OPS_WEBHOOK}) (set) as slack"),
        ("${OPS_WEBHOOK}/services", "${OPS_WEBHOOK} (set) as slack"),
    ],
)
def test_addresses_of_people_are_shown_without_what_may_be_secret(plan, monkeypatch, address, told):
    monkeypatch.setenv("OPS_WEBHOOK", "https://hooks.example")
    if "${" in address:
        monkeypatch.setenv("OPS_WEBHOOK_SECRET", "whsec_" + "c2VjcmV0" * 4)
    out = plan(CREW.replace("${OPS_WEBHOOK}", address))[1]
    assert f"told      {told}" in out
    assert "hunter2" not in out


@pytest.mark.parametrize(
    ("instead", "problem"),
    [
        ("no-such-program-here", "agents.buyer.run: there is no program 'no-such-program-here'"),
        ('./nothing.sh, env: {A: "b"}', "agents.buyer.run: there is no program './nothing.sh'"),
        ('python, env: {KEY: "${NO_SUCH_VARIABLE}"}', "agents.buyer.env.KEY"),
    ],
)
def test_what_is_missing_is_said_and_is_exit_code_3(plan, instead, problem):
    code, out, err = plan(CREW.replace("\"python -c 'print(1)'\"", instead))
    assert code == failure.INVALID
    assert problem in err
    assert "crew shop" in out, "the rest is told, too"


def test_a_crew_file_with_mistakes_is_refused_as_ever(plan):
    assert plan(CREW.replace("do: [break]", "do: [brake]"))[0] == failure.INVALID


def test_where_another_up_runs_it_says_so(plan, monkeypatch):
    running = server.ServerRecord(url="nats://127.0.0.1:4222", user="u", jwt="", seed="", pid=4711)
    monkeypatch.setattr(server, "find", lambda _directory: running)
    code, _, err = plan()
    assert (code, "another `supervisor up` runs on" in err, "4711" in err) == (failure.FAILED, True, True)


def test_a_server_that_is_not_there_is_exit_code_4(plan, tmp_path):
    code, _, err = plan(CREW, "--nats", "nats://127.0.0.1:9", "--state", str(tmp_path / "own"))
    assert (code, "cannot connect to 127.0.0.1:9" in err) == (failure.UNREACHABLE, True)
    assert not (tmp_path / "own").exists()
