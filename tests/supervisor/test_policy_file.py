"""Policies of files: every mistake with its place, crew files and files of rules alone, tests, roles."""

from pathlib import Path

import pytest

from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.gate.trial import try_out
from crewkeeper_supervisor.shell.crew_problems import CrewFileError, Problem
from crewkeeper_supervisor.shell.policy_file import PolicyFile, read_policy

CREW = """\
crew: trip
agents:
  planner: {run: x, tools: [pay, files]}
  worker: {run: x, replicas: 2}
tools:
  pay: {function: "m:pay", cost_usd: 1.00}
  files: {mcp: server}
"""
RULES = """\
rules:
  - {id: writes, tools: ["files.write_*"], when: "!args.path.startsWith('out/')", do: deny, because: only out/}
  - {id: workers, agents: [worker], do: approve, tools: [pay]}
policy:
  default: deny
  tests:
    - {name: outside, call: {agent: a, tool: files.write_file, args: {path: /etc}}, expect: deny, rule: writes}
    - {call: {agent: worker-2, role: worker, tool: pay}, expect: approve}
"""


@pytest.fixture
def read(tmp_path: Path):
    def from_text(text: str) -> PolicyFile:
        file = tmp_path / "policy.yaml"
        file.write_text(text)
        return read_policy(file)

    return from_text


def refused(read, text: str) -> list[Problem]:
    with pytest.raises(CrewFileError) as caught:
        read(text)
    return caught.value.problems


def test_a_file_of_rules_alone(read):
    loaded = read(RULES)
    assert (loaded.default, loaded.crew) == ("deny", "")
    assert [rule.id for rule in loaded.rules] == ["writes", "workers"]
    assert [(trial.name, trial.line) for trial in loaded.trials] == [("outside", 7), ("test-2", 8)]
    assert all(try_out(loaded.policy(), trial).problems == () for trial in loaded.trials)


def test_a_crew_file_is_a_policy_file_and_knows_roles(read):
    loaded = read(CREW + RULES.replace("role: worker, ", ""))
    assert loaded.crew == "trip"
    assert loaded.warnings == ()
    # Nobody said that worker-2 is a worker but the crew.
    assert [try_out(loaded.policy(), trial).problems for trial in loaded.trials] == [(), ()]
    placed = loaded.placed(Call(agent="worker-1", hop="agent", to="worker-2"))
    assert (placed.role, placed.to_role) == ("worker", "worker")
    assert loaded.placed(Call(agent="worker-1", role="other")).role == "other"


@pytest.mark.parametrize(
    ("rule", "code", "place", "message"),
    [
        ('{do: deny, when: "agrs.x == 1"}', "CREW-123", "agrs.x == 1", "'agrs'"),
        ("{do: deny, when: 'tool == ''x'' && foo'}", "CREW-123", "foo'", "'foo'"),
        ("{do: deny, when: \"args.x.matches('(?=a)')\"}", "CREW-123", "'(?=a)'", "regular expression"),
        ("{do: deny, when: 1 + 1}", "CREW-123", "1 + 1", "INT"),
        ("{do: deny, tools: [a], hop: agent}", "CREW-119", "[a], hop", "hop agent"),
        ("{do: redact, redact: [emial]}", "CREW-116", "[emial]", "did you mean 'email'"),
        ("{do: deny, tools: ['a b']}", "CREW-117", "'a b'", "a b"),
        ("{do: deny, hook: nothing}", "CREW-117", "nothing", "nothing"),
        ("{do: deny, deadline: 1h}", "CREW-115", "1h", "10s"),
        ("{do: ask}", "CREW-116", "ask", "ask"),
    ],
)
def test_mistakes_have_their_place(read, rule: str, code: str, place: str, message: str):
    (problem,) = refused(read, f"rules:\n - {rule}\n")
    assert (problem.code, problem.line) == (code, 2)
    assert problem.source[problem.caret :].startswith(place)
    assert problem.column == problem.caret + 1
    assert message in problem.message
    assert problem.remedy


def test_mistakes_in_blocks_have_their_place(read):
    text = "rules:\n  - do: deny\n    when: >-\n      args.x == 1 &&\n      tol == 'x'\n"
    text += "  - do: deny\n    when: |\n      true &&\n        foo\n"
    first, second = refused(read, text)
    assert (first.line, first.column, first.source[first.caret :]) == (5, 7, "tol == 'x'")
    assert (second.line, second.column) == (9, 9)


def test_all_mistakes_at_once(read):
    text = "rules:\n - {id: a, do: alow, when: foo}\n - {id: a, do: deny, when: bar, wen: x}\n"
    found = refused(read, text)
    assert [problem.code for problem in found] == ["CREW-116", "CREW-123", "CREW-107", "CREW-123", "CREW-110"]


def test_names_are_checked_where_the_crew_is_known(read):
    tools, agents = "[pya, 'files.*', '*_x', other.x]", "[planer, worker-2, 'w*', worker-3]"
    found = refused(read, f"{CREW}rules:\n - {{do: deny, tools: {tools}, agents: {agents}}}\n")
    assert [(each.code, each.path) for each in found] == [
        ("CREW-118", "rules[0].tools[0]"),
        ("CREW-118", "rules[0].tools[3]"),
        ("CREW-118", "rules[0].agents[0]"),
        ("CREW-118", "rules[0].agents[3]"),
    ]
    assert "did you mean 'pay'" in found[0].message
    assert read("rules:\n - {do: deny, tools: [anything], agents: [anybody]}\n").rules
    model = CREW + "rules:\n - {hop: model, do: deny, to: [openai/*]}\n"
    assert read(model).rules[0].to == ("openai/*",)


@pytest.mark.parametrize(
    ("tool", "code", "message"),
    [
        ("{}", "CREW-119", "function, mcp, command, inside"),
        ("{function: 'm:f', inside: true}", "CREW-119", "function, mcp"),
        ("{inside: false}", "CREW-119", "function, mcp"),
        ("{command: x}", "CREW-111", "which arguments"),
        ("{mcp: x, schema: {type: object}}", "CREW-119", "itself"),
        ("{command: x, schema: {type: strng}}", "CREW-114", "schema cannot be used"),
        ("{inside: true, schema: {$ref: 'http://127.0.0.1/x'}}", "CREW-114", "127.0.0.1"),
        ("{inside: true, schema: {minimum: on}}", "CREW-113", "true or false"),
        ("{inside: true, schema: {minimum: 010}}", "CREW-113", "a number"),
        ("{inside: true, schema: []}", "CREW-112", "list"),
        ("{function: 'm', cost_usd: 1}", "CREW-117", "valid name"),
        ("{inside: true, rate: {per: 1m}}", "CREW-111", "calls"),
    ],
)
def test_tools_are_checked(read, tool: str, code: str, message: str):
    (problem,) = refused(read, f"crew: one\nagents:\n  a: {{run: x}}\ntools:\n  t: {tool}\n")
    assert problem.code == code
    assert message in problem.message


def test_a_rule_that_can_never_decide_is_a_warning(read):
    (warning,) = read("rules:\n - {do: allow}\n - {do: deny, tools: [x]}\n").warnings
    assert (warning.code, warning.line, warning.severity) == ("CREW-202", 3, "warning")


def test_a_test_names_a_rule_that_exists(read):
    (problem,) = refused(read, RULES.replace("rule: writes", "rule: wirtes"))
    assert (problem.code, problem.line) == ("CREW-118", 7)
    assert "did you mean 'writes'" in problem.message


def test_what_a_failed_test_says(read):
    wrong = RULES.replace("expect: deny, rule: writes", "expect: allow, rule: workers, warns: [workers], redacted: {}")
    loaded = read(wrong)
    problems = try_out(loaded.policy(), loaded.trials[0]).problems
    assert problems == (
        "expected allow, got deny by rule writes",
        "expected rule workers to decide, not writes",
        "expected warnings of workers, got nobody",
        "expected the arguments {} after redaction, got {'path': '/etc'}",
    )


@pytest.mark.parametrize("text", ["", "[]", "rules: {}", "rules: 3", "rulez: []", "policy: {defualt: deny}", "a: &x 1"])
def test_what_is_no_policy_is_refused(read, text: str):
    assert refused(read, text)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(CrewFileError, match="cannot be read"):
        read_policy(tmp_path / "none.yaml")
