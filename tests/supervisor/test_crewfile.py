import re
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from crewkeeper_supervisor.core.crew import Crew, Repeat, Response, Responses
from crewkeeper_supervisor.core.model_proxy import ModelProxy, Upstream
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.core.tools import CallRate, Price, Tool
from crewkeeper_supervisor.shell.crew_format import AGENT, CREW, LIMITS, RESTART
from crewkeeper_supervisor.shell.crew_kinds import Section
from crewkeeper_supervisor.shell.crew_problems import CODES, MAX_PROBLEMS
from crewkeeper_supervisor.shell.crew_response_format import ESCALATION, LADDER_KINDS
from crewkeeper_supervisor.shell.crew_variables import resolve_env, unset_variables
from crewkeeper_supervisor.shell.crewfile import CrewFile, CrewFileError, Problem, load, parse, read, render
from crewkeeper_supervisor.shell.errors import SettingMissing

FOLDER = Path(__file__).parent
MINIMAL = "crew: one\nagents:\n  a: {run: python a.py}\n"
SAMPLE = """\
crew: trip
objective: Plan three days in Lisbon for under 900 EUR
agents:
  planner:    {run: python planner.py, may_call: [researcher, reviewer], budget: {usd: 1.00}}
  researcher: {run: python researcher.py, replicas: 2, concurrency: 4, tools: [search]}
  reviewer:   {external: true}                  # started elsewhere with `supervisor creds issue`
restart: {policy: transient, intensity: 3, period: 60s}
tools:
  search: {function: "mytools:search"}
  files:  {mcp: "npx -y @modelcontextprotocol/server-filesystem ./data"}
budget: {usd: 5.00, tokens: 400k, tool_calls: 200, wall: 30m, depth: 8}
rules:
  - {tools: [files.write_*], when: "!args.path.startsWith('out/')", do: deny, because: "writes stay in out/"}
responses:
  deadlock: {confirm: 250ms, do: [break, escalate]}
  loop:     {do: [warn, hold, escalate]}
escalate:
  - {webhook: "${OPS_WEBHOOK}", secret: "${OPS_WEBHOOK_SECRET}", format: standard}
"""
FULL = """\
crew: full
objective: every key once
agents:
  a:
    run: [python, -u, "a b.py"]
    replicas: 3
    concurrency: 2
    reentrant: chain
    mailbox: 2k
    may_call: [b]
    env: {LEVEL: debug, URL: "${BASE}/x", EMPTY: ""}
    cwd: .
    host: {gpu: a100, zone: eu-1}
    restart: {policy: permanent, shutdown: 1.5, elsewhere: true}
    budget: {model_calls: 10, messages: 1M, fan_out: 3, warn_percent: 50, hand_back_percent: 5, ask: 2m}
    task_budget: {usd: 0.25}
    tools: [t.read]
    priority: 90
    never_victim: true
    restart_cost: 20k
    stall: 1h
  b: {external: true, may_call: []}
restart: {intensity: 5, period: 2h}
responses:
  deadlock: {confirm: 0, lasting: 1d, do: [kill], shadow: true, victim: youngest, repeat: {times: 5, within: 1h}}
  orphan: {shadow: true}
escalate:
  - {webhook: "https://ops.example/hook", secret: "${S}"}
watch: {stall: 5m, depth: 20, fan_out: 1k}
outcome: {must_mention: [Lisbon], never: [TBD], schema: {type: object}}
escalation: {per_minute: 3, links: [acknowledge, approve]}
limits: {payload: 1MiB, heartbeat: 250ms, start_timeout: 1m}
retain: {journal: 400d, ledger: 4000d}
tools:
  t:
    function: "m:f"
    description: Does it.
    cost_usd: 0.50
    timeout: 5s
    concurrency: 2
    rate: {calls: 10, per: 1m}
    poll: true
    args_size: 1KiB
    result_size: 2KiB
    env: {KEY: "${BANK_KEY}"}
  run: {command: sh -c cat, schema: {type: object, properties: {size: {minimum: 0.5}}}}
  m: {mcp: npx server}
  own: {inside: true}
rules:
  - {id: first, hop: agent, do: allow, agents: [a, a-1], to: [b]}
  - hop: tool
    tools: [t, "m.*"]
    when: args.size > 1
    hook: "m.n:f"
    deadline: 500ms
    do: redact
    redact: [secrets, args.x]
    because: "no"
    shadow: true
redact: {kinds: [secrets, card], in: [client, arguments]}
approvals: {expire: 5m, who: finance, listen: "127.0.0.1:8790", url: "https://ops.example/approvals"}
policy:
  default: deny
  tests:
    - name: it holds
      call: {hop: tool, agent: a-1, role: a, tool: t, args: {size: 2, l: [x, null]}, depth: 1, chain: [b], at: 5}
      expect: deny
      rule: first
      warns: []
      redacted: {size: 2}
    - {call: {hop: agent, agent: a, to: b, cost_usd: 0.01}, expect: allow}
prices:
  "gpt-*": {input: 2.50, output: 10, cached: 1.25}
model_proxy:
  upstreams: {openai: {url: "https://models.example/v1", key: "${A_KEY}"}, anthropic: {}}
  listen: "127.0.0.1:8100"
  max_output_tokens: 2k
  body: 1MiB
  hold: 10m
  unpriced: true
"""


def parsed(text: str | bytes) -> CrewFile:
    return parse(text if isinstance(text, bytes) else text.encode(), "crew.yaml", FOLDER)


def problems(text: str | bytes) -> list[Problem]:
    with pytest.raises(CrewFileError) as caught:
        parsed(text)
    return caught.value.problems


def only(text: str | bytes) -> Problem:
    found = problems(text)
    assert len(found) == 1, render(found)
    return found[0]


def with_agent(body: str) -> str:
    return f"crew: one\nagents:\n  a: {{run: x}}\n  b: {body}\n"


def with_keys(body: str) -> str:
    return MINIMAL + body + "\n"


def test_the_design_sample_loads_and_says_what_is_not_enforced() -> None:
    loaded = parsed(SAMPLE)
    assert [agent.instances for agent in loaded.crew.agents] == [
        ("planner",),
        ("researcher-1", "researcher-2"),
        ("reviewer",),
    ]
    assert loaded.crew.budget.microusd == 5_000_000
    assert loaded.crew.budget.tokens == 400_000
    assert loaded.crew.budget.wall_s == 1800
    assert loaded.crew.agents[0].run == ("python", "planner.py")
    assert loaded.crew.agents[2].external
    assert loaded.crew.escalate[0].webhook == "${OPS_WEBHOOK}"
    assert loaded.warnings == ()
    assert loaded.crew.responses.loop == replace(Responses().loop, do=("warn", "hold", "escalate"))


def test_every_key_arrives_in_the_crew() -> None:
    crew = parsed(FULL).crew
    a, b = crew.agents
    assert a.run == ("python", "-u", "a b.py")
    assert (a.replicas, a.concurrency, a.reentrant, a.mailbox, a.priority) == (3, 2, "chain", 2000, 90)
    assert a.env == {"LEVEL": "debug", "URL": "${BASE}/x", "EMPTY": ""}
    assert (a.may_call, b.may_call) == (("b",), ())
    assert a.cwd == str(FOLDER.resolve())
    assert a.never_victim
    assert (a.restart_cost, a.stall_s) == (20_000, 3600)
    assert (crew.watch.stall_s, crew.watch.depth, crew.watch.fan_out) == (300, 20, 1000)
    assert (crew.retain.journal_s, crew.retain.ledger_s) == (400 * 86400, 4000 * 86400)
    assert crew.outcome is not None
    assert (crew.outcome.must_mention, crew.outcome.never) == (("Lisbon",), ("TBD",))
    assert a.tools == ("t.read",)
    assert (a.restart.policy, a.restart.intensity, a.restart.period_s, a.restart.shutdown_s) == (
        "permanent",
        5,
        7200,
        1.5,
    )
    assert (b.restart.policy, b.restart.intensity) == ("transient", 5)
    assert (a.host, a.restart.elsewhere, b.restart.elsewhere) == ({"gpu": "a100", "zone": "eu-1"}, True, False)
    assert a.budget is not None
    assert (a.budget.model_calls, a.budget.messages, a.budget.fan_out) == (10, 1_000_000, 3)
    assert crew.responses.deadlock == Response(
        do=("kill",),
        confirm_s=0,
        lasting_s=86400,
        shadow=True,
        victim="youngest",
        repeat=Repeat(times=5, within_s=3600),
    )
    assert crew.responses.orphan == Response(do=("break",), shadow=True)
    assert crew.escalations_per_minute == 3
    assert crew.act_links == ("acknowledge", "approve")
    assert (crew.payload_bytes, crew.heartbeat_s, crew.start_timeout_s) == (1024 * 1024, 0.25, 60)
    here = str(FOLDER)
    assert crew.tools == {
        "t": Tool(
            function="m:f",
            description="Does it.",
            cost_microusd=500_000,
            timeout_s=5,
            concurrency=2,
            rate=CallRate(calls=10, per_s=60),
            poll=True,
            args_bytes=1024,
            result_bytes=2048,
            env={"KEY": "${BANK_KEY}"},
            cwd=here,
        ),
        "run": Tool(
            command=("sh", "-c", "cat"), schema={"type": "object", "properties": {"size": {"minimum": 0.5}}}, cwd=here
        ),
        "m": Tool(mcp=("npx", "server"), cwd=here),
        "own": Tool(inside=True, cwd=here),
    }
    assert crew.rules == (
        Rule(id="first", do="allow", hop="agent", agents=("a", "a-1"), to=("b",)),
        Rule(
            id="rule-2",
            do="redact",
            hop="tool",
            tools=("t", "m.*"),
            when="args.size > 1",
            hook="m.n:f",
            deadline_s=0.5,
            redact=("secrets", "args.x"),
            because="no",
            shadow=True,
        ),
    )
    assert crew.policy_default == "deny"
    assert (crew.redact.kinds, crew.redact.places) == (("secrets", "card"), ("client", "arguments"))
    approvals = (crew.approval_s, crew.approval_who, crew.approval_listen, crew.approval_url)
    assert approvals == (300, "finance", "127.0.0.1:8790", "https://ops.example/approvals")
    assert crew.prices == {
        "gpt-*": Price(input_microusd=2_500_000, output_microusd=10_000_000, cached_microusd=1_250_000)
    }
    assert crew.model_proxy == ModelProxy(
        listen="127.0.0.1:8100",
        openai=Upstream(url="https://models.example/v1", key="${A_KEY}"),
        anthropic=Upstream(url="https://api.anthropic.com", key="${ANTHROPIC_API_KEY}"),
        max_output_tokens=2000,
        body_bytes=1024 * 1024,
        hold_s=600.0,
        unpriced=True,
    )


@pytest.mark.parametrize("text", [MINIMAL, SAMPLE, FULL])
def test_a_loaded_crew_keeps_the_limits_of_the_core(text: str) -> None:
    crew = parsed(text).crew
    assert msgspec.json.decode(msgspec.json.encode(crew), type=Crew) == crew


def test_an_absent_key_has_the_default_of_the_core() -> None:
    crew = parsed(MINIMAL).crew
    expected = Crew(name="one", folder=crew.folder, agents=(msgspec.structs.replace(crew.agents[0]),))
    assert crew == expected
    assert crew.agents[0].cwd == str(FOLDER.resolve())


def written_out(section: Section, *names: str) -> str:
    """A flow mapping of these keys with their documented defaults."""
    return "{" + ", ".join(f"{key.name}: {key.default}" for key in section.keys if key.name in names) + "}"


def test_the_documented_defaults_are_those_of_the_core() -> None:
    responses = CREW.find("responses")
    assert responses is not None
    assert isinstance(responses.kind, Section)
    told = ("confirm", "lasting", "do", "shadow", "climb", "cool_down", "hold")
    agent = written_out(
        AGENT, "external", "replicas", "concurrency", "reentrant", "mailbox", "env", "tools", "priority", "never_victim"
    )
    rows = [
        "crew: one",
        f"agents: {{a: {{run: python a.py, {agent[1:]}}}",
        f"restart: {written_out(RESTART, *(key.name for key in RESTART.keys))}",
        f"limits: {written_out(LIMITS, *(key.name for key in LIMITS.keys))}",
        "responses:",
        *(f"  {key.name}: {written_out(key.kind, *told)}" for key in responses.kind.keys),  # type: ignore[arg-type]
        "escalate: []",
        f"escalation: {written_out(ESCALATION, 'per_minute', 'links')}",
        "tools: {}",
        "rules: []",
    ]
    assert parsed("\n".join(rows)).crew == parsed(MINIMAL).crew


TEN_MISTAKES = """\
crew: far-too-long-a-name-for-a-crew
agnets: {}
agents:
  planner:  {run: python p.py, may_call: [revewer], replicas: 0}
  reviewer: {run: python r.py, external: true, never_victim: yes}
  writer:   {run: "python 'w.py", restart: {period: 5 minutes}}
budget: {usd: 1.0000001}
escalate:
  - {webhook: "ftp://x"}
"""


def test_ten_mistakes_give_ten_errors_with_their_places() -> None:
    found = problems(TEN_MISTAKES)
    assert [(p.line, p.column, p.code, p.path) for p in found] == [
        (1, 7, "CREW-117", "crew"),
        (2, 1, "CREW-110", "agnets"),
        (4, 43, "CREW-118", "agents.planner.may_call[0]"),
        (4, 63, "CREW-115", "agents.planner.replicas"),
        (5, 14, "CREW-119", "agents.reviewer.run"),
        (5, 62, "CREW-113", "agents.reviewer.never_victim"),
        (6, 19, "CREW-114", "agents.writer.run"),
        (6, 53, "CREW-114", "agents.writer.restart.period"),
        (7, 15, "CREW-115", "budget.usd"),
        (9, 15, "CREW-122", "escalate[0].webhook"),
    ]
    lines = TEN_MISTAKES.splitlines()
    for problem in found:
        assert problem.source == lines[problem.line - 1]
        assert problem.caret == problem.column - 1
        assert problem.remedy


def test_rendering_points_at_the_place() -> None:
    text = render(problems("crew: one\nagents:\n  a: {rn: python a.py, run: x}\n"))
    assert text == (
        "crew.yaml:3:7: error: agents.a.rn: unknown key 'rn' in agent (did you mean 'run'?) [CREW-110]\n"
        "      a: {rn: python a.py, run: x}\n"
        "          ^\n"
        "    fix: use one of run, external, replicas, concurrency, reentrant, mailbox, may_call, may_tell, env, cwd, "
        "host, restart, budget, task_budget, tools, priority, never_victim, restart_cost, stall"
    )


BAD_VALUES = [
    (with_agent("{run: x, replicas: 1001}"), "CREW-115", "1 to 1000"),
    (with_agent('{run: x, replicas: "2"}'), "CREW-112", "text"),
    (with_agent("{run: x, replicas: 2.5}"), "CREW-114", "2.5"),
    (with_agent("{run: x, replicas: 010}"), "CREW-113", "010"),
    (with_agent("{run: x, replicas: 0x10}"), "CREW-113", "0x10"),
    (with_agent("{run: x, replicas: 1_0}"), "CREW-113", "1_0"),
    (with_agent("{run: x, concurrency: -1}"), "CREW-115", "-1"),
    (with_agent("{run: x, mailbox: 1:30}"), "CREW-113", "1:30"),
    (with_agent("{run: x, mailbox: 1.2345k}"), "CREW-114", "whole"),
    (with_agent("{run: x, mailbox: 2M}"), "CREW-115", "2M"),
    (with_agent("{run: x, reentrant: chian}"), "CREW-116", "'chain'"),
    (with_agent("{run: x, reentrant: no}"), "CREW-113", "no"),
    (with_agent("{run: x, may_call: a}"), "CREW-112", "not a list"),
    (with_agent("{run: x, may_call: [a, a]}"), "CREW-107", "twice"),
    (with_agent("{run: x, may_call: [y]}"), "CREW-113", "y"),
    (with_agent("{run: x, may_call: }"), "CREW-111", "no value"),
    (with_agent("{run: [], may_call: []}"), "CREW-111", "empty"),
    (with_agent("{run: [python, 2026-01-01]}"), "CREW-113", "a date"),
    (with_agent("{run: [python, [x]]}"), "CREW-112", "a list"),
    (with_agent("{run: {x: y}}"), "CREW-112", "a mapping"),
    (with_agent("{run: ~}"), "CREW-111", "no value"),
    (with_agent("{run: 12}"), "CREW-113", "a number"),
    (with_agent("{}"), "CREW-111", "how it is started"),
    (with_agent("{external: false}"), "CREW-119", "no run"),
    (with_agent("{external: true, replicas: 2}"), "CREW-119", "2 replicas"),
    (with_agent(""), "CREW-111", "no value"),
    (with_agent("[run]"), "CREW-112", "a list"),
    (with_agent("{run: x, never_victim: True}"), "CREW-113", "True"),
    (with_agent("{run: x, never_victim: maybe}"), "CREW-114", "maybe"),
    (with_agent("{run: x, priority: 101}"), "CREW-115", "0 to 100"),
    (with_agent("{run: x, cwd: nowhere/at/all}"), "CREW-114", "not a folder"),
    (with_agent("{run: x, env: {PORT: 8080}}"), "CREW-113", "8080"),
    (with_agent("{run: x, env: {A-B: x}}"), "CREW-117", "A-B"),
    (with_agent('{run: x, env: {A: "${}"}}'), "CREW-121", "${}"),
    (with_agent('{run: x, env: {A: "${B"}}'), "CREW-121", "${B"),
    (with_agent("{run: x, env: {CREWKEEPER_URL: x}}"), "CREW-119", "CREWKEEPER_"),
    (with_agent("{run: x, tools: [search]}"), "CREW-118", "search"),
    (with_agent("{run: x, restart: {policy: always}}"), "CREW-116", "always"),
    (with_agent("{run: x, restart: {period: 0}}"), "CREW-115", "more than 0"),
    (with_agent("{run: x, restart: {shutdown: 2h}}"), "CREW-115", "1h"),
    (with_agent("{run: x, restart: {period: .inf}}"), "CREW-114", ".inf"),
    ("crew: one\nagents: {a-2: {run: x}, a: {run: x, replicas: 2}}", "CREW-120", "'a-2'"),
    (f"crew: one\nagents: {{{'a' * 31}: {{run: x, replicas: 10}}}}", "CREW-120", "34 characters"),
    ("crew: one\nagents: {a: {run: x, replicas: 2, may_call: [a-1]}}", "CREW-118", "one instance of a"),
    ("crew: one\nagents: {_a: {run: x}}", "CREW-117", "_a"),
    ("crew: one\nagents: {-a: {run: x}}", "CREW-117", "-a"),
    ("crew: one\nagents: {a.b: {run: x}}", "CREW-117", "a.b"),
    ("crew: one\nagents: {on: {run: x}}", "CREW-113", "on"),
    ("crew: one\nagents: {1:30: {run: x}}", "CREW-113", "1:30"),
    ("crew: one\nagents: {7: {run: x}}", "CREW-113", "7"),
    ("crew: no\nagents: {a: {run: x}}", "CREW-113", "no"),
    ("crew: one\nagents: {}", "CREW-115", "0 entries"),
    ("crew: one", "CREW-111", "'agents'"),
    ("agents: {a: {run: x}}", "CREW-111", "'crew'"),
    ("- crew", "CREW-112", "a list"),
    ("", "CREW-111", "empty"),
    ("# nothing", "CREW-111", "empty"),
    (with_keys("objective: ''"), "CREW-111", "empty"),
    (with_keys("budget: {usd: $5}"), "CREW-114", "$5"),
    (with_keys("budget: {usd: 1e3}"), "CREW-114", "1e3"),
    (with_keys("budget: {usd: -0.01}"), "CREW-115", "-0.01"),
    (with_keys("budget: {tokens: 4 k}"), "CREW-114", "4 k"),
    (with_keys("budget: {depth: 0}"), "CREW-115", "0"),
    (with_keys("budget: {wall: 1h30m}"), "CREW-114", "1h30m"),
    (with_keys("budget:"), "CREW-111", "no value"),
    (with_keys("limits: {payload: 1000}"), "CREW-115", "1000"),
    (with_keys("limits: {payload: 1GiB}"), "CREW-114", "1GiB"),
    (with_keys("limits: {heartbeat: 10ms}"), "CREW-115", "50ms"),
    (with_keys("responses: {deadlock: {do: []}}"), "CREW-115", "0 entries"),
    (with_keys("responses: {deadlock: {do: [hold]}}"), "CREW-116", "hold"),
    (with_keys("responses: {crash: {climb: 1s}}"), "CREW-110", "climb"),
    (with_keys("responses: {loop: {hold: 0s}}"), "CREW-115", "0s"),
    (with_keys("responses: {deadlok: {do: [warn]}}"), "CREW-110", "'deadlock'"),
    (with_keys("escalate: [{secret: '${X}'}]"), "CREW-111", "'webhook'"),
    (with_keys("escalate: [{webhook: 'https://'}]"), "CREW-122", "https://"),
    (with_keys("escalate: [{webhook: 'http://h:99999/'}]"), "CREW-122", "99999"),
    (with_keys("escalate: [{webhook: 'http://a b/'}]"), "CREW-122", "a b"),
    (with_keys("escalate: [{webhook: 'http://h/${1}'}]"), "CREW-121", "${1}"),
    (with_keys("escalate: {webhook: 'http://h/'}"), "CREW-112", "not a list"),
    (with_keys("retain: {ledger: 30d}"), "CREW-119", "for ever"),
    (with_keys("retain: {ledger: 30d, journal: 31d}"), "CREW-119", "longer"),
    (with_keys("retain: {ledger: 30m, journal: 31d}"), "CREW-115", "1h"),
    (with_keys("tools: {t: {}}"), "CREW-119", "function, mcp"),
    (with_keys("tools: {t: {function: 'm:f', mcp: npx}}"), "CREW-119", "function, mcp"),
    (with_keys("tools: {t: {function: 'm:f', env: {CREWKEEPER_URL: x}}}"), "CREW-119", "CREWKEEPER_"),
    (with_keys("tools: {t: {inside: true, env: {KEY: x}}}"), "CREW-119", "inside the agent"),
    (with_keys("rules: [{do: maybe}]"), "CREW-116", "maybe"),
    (with_keys("rules: [{do: deny, agents: [zed]}]"), "CREW-118", "zed"),
    (with_keys("rules: [{do: deny, tools: ['a b']}]"), "CREW-117", "a b"),
    (with_keys("crew: two"), "CREW-107", "line 1"),
]


@pytest.mark.parametrize(("text", "code", "part"), BAD_VALUES, ids=[text[-40:] for text, _, _ in BAD_VALUES])
def test_a_bad_value_is_one_error_that_names_it(text: str, code: str, part: str) -> None:
    problem = only(text)
    assert problem.code == code, render([problem])
    assert part in problem.message + problem.remedy


BAD_YAML = [
    ("crew: &x one\nagents: {a: {run: x}}", "CREW-106", 1),
    ("crew: !!str one\nagents: {a: {run: x}}", "CREW-106", 1),
    ("crew: one\nagents: {a: {run: !x go}}", "CREW-106", 2),
    ("%YAML 1.2\n---\n" + MINIMAL, "CREW-106", 1),
    (MINIMAL + "---\n" + MINIMAL, "CREW-106", 4),
    ("crew: one\nagents:\n\ta: {run: x}\n", "CREW-104", 3),
    ("crew: one\nagents: {a: {run: x}\n", "CREW-105", 3),
    ("crew: one\nagents: {a: {run: 'x}}\n", "CREW-105", 3),
    ("crew: one: two\nagents: {a: {run: x}}", "CREW-105", 1),
    ("crew: @one\nagents: {a: {run: x}}", "CREW-105", 1),
    ('crew: "\\U00110000"\nagents: {a: {run: x}}', "CREW-105", 1),
    ("%YAML 1" + "0" * 5000 + "\n---\n" + MINIMAL, "CREW-105", 1),
    ("crew: one\nagents: {a: {run: x}}\nobjective: \x07", "CREW-103", 3),
    (b"crew: one\nagents: {a: {run: caf\xe9}}", "CREW-103", 2),
    ("crew: one\nagents: {a: {run: x}}\n? [x]\n: y", "CREW-109", 3),
    (b"#" * (64 * 1024 + 1), "CREW-102", 0),
]


@pytest.mark.parametrize(("text", "code", "line"), BAD_YAML, ids=[f"{c}-{n}" for n, (_, c, _) in enumerate(BAD_YAML)])
def test_what_is_not_plain_yaml_is_refused_at_its_line(text: str | bytes, code: str, line: int) -> None:
    problem = only(text)
    assert (problem.code, problem.line) == (code, line), render([problem])


def test_aliases_and_merge_keys_are_refused_where_they_stand() -> None:
    found = problems("crew: one\nagents:\n  a: &a {run: x}\n  b: {<<: *a}\n  c: *a\n")
    assert [(p.code, p.line) for p in found] == [
        ("CREW-106", 3),
        ("CREW-111", 4),
        ("CREW-106", 4),
        ("CREW-106", 4),
        ("CREW-106", 5),
    ]


def test_what_stands_before_a_syntax_error_is_checked_too() -> None:
    found = problems("crew: one\nagents:\n  a: {run: x, replcas: 2, may_call: [later]}\nlimits: {\n")
    assert [p.code for p in found] == ["CREW-110", "CREW-105"]


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake() -> None:
    assert parsed(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode()).crew.name == "one"
    found = problems(TEN_MISTAKES.replace("\n", "\r\n"))
    assert [(p.line, p.column) for p in found] == [(p.line, p.column) for p in problems(TEN_MISTAKES)]


def test_billion_laughs_are_refused_at_the_anchors() -> None:
    rows = ["crew: one", "a0: &a0 [lol, lol]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    found = problems("\n".join(rows))
    assert {"CREW-106", "CREW-110"} <= {p.code for p in found}
    assert len(found) == MAX_PROBLEMS


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_a_tower_is_refused_at_its_33rd_floor(opening: str) -> None:
    found = problems("crew: one\nagents:\n " + opening * (60_000 // len(opening)))
    assert [p.code for p in found if p.code in {"CREW-108", "CREW-105"}] == ["CREW-108"]


@pytest.mark.parametrize(
    "text",
    [
        "crew: one\nagents:\n" + "".join(f"  a{n}: {{run: x, replicas: 1000}}\n" for n in range(1900)),
        "crew: one\nagents:\n  planner: {run: x, may_call: [" + ",".join(f"p{n}" for n in range(9000)) + "]}\n",
        "crew: one\nagents: {" + ",".join("x: {}" for _ in range(9000)) + "}",
        "crew: one\nagents: {a: {" + ",".join(f"kay{n}: 1" for n in range(5000)) + "}}",
    ],
    ids=["instances", "unknown callees", "duplicates", "unknown keys"],
)
def test_garbage_costs_bounded_work_and_a_bounded_report(text: str) -> None:
    with pytest.raises(CrewFileError) as caught:
        parsed(text)
    assert len(caught.value.problems) <= MAX_PROBLEMS
    assert len(str(caught.value)) < 100_000


def test_a_report_shows_neither_control_characters_nor_secrets() -> None:
    found = problems('crew: "\\x1b[2J\\u202e"\nagents: {a: {run: x}}\nescalate: [{webhook: x, secret: hunter2}]\n')
    text = render(found)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "hunter2" not in text
    assert "*******" in text


def test_a_secret_in_the_file_is_a_warning() -> None:
    loaded = parsed(with_keys("escalate: [{webhook: 'https://h/', secret: whsec_abc}]"))
    assert [warning.code for warning in loaded.warnings] == ["CREW-203"]
    assert "whsec_abc" not in render(loaded.warnings)


def test_keys_without_effect_and_shell_words_are_warnings() -> None:
    loaded = parsed(with_agent("{external: true, env: {A: b}, cwd: .}").replace("run: x", "run: cat x | sort"))
    assert [(warning.code, warning.path) for warning in loaded.warnings] == [
        ("CREW-204", "agents.a.run"),
        ("CREW-202", "agents.b.cwd"),
        ("CREW-202", "agents.b.env"),
    ]


@pytest.mark.parametrize("name", LADDER_KINDS)
def test_a_ladder_is_given_key_by_key_over_the_default_of_its_kind(name: str) -> None:
    given = "{do: [nudge, hold], climb: 90s, cool_down: 1h, hold: 2m, shadow: true}"
    loaded = parsed(with_keys(f"responses: {{{name}: {given}}}")).crew.responses
    assert getattr(loaded, name) == Response(
        do=("nudge", "hold"), climb_s=90, cool_down_s=3600, hold_s=120, shadow=True
    )
    default = getattr(Responses(), name)
    changed = getattr(parsed(with_keys(f"responses: {{{name}: {{climb: 1s}}}}")).crew.responses, name)
    assert changed == replace(default, climb_s=1)
    assert "kill" not in default.do
    assert "stop" not in default.do


def test_quoting_makes_words_of_yaml_traps() -> None:
    crew = parsed('crew: "no"\nagents: {"on": {run: x, may_call: ["on", "7"]}, "7": {run: [python, "1:30"]}}').crew
    assert crew.name == "no"
    assert [agent.name for agent in crew.agents] == ["on", "7"]
    assert crew.agents[1].run == ("python", "1:30")


@given(st.decimals(min_value=0, max_value=1_000_000, places=6))
def test_money_is_exact(amount: Decimal) -> None:
    assert parsed(with_keys(f"budget: {{usd: {amount:f}}}")).crew.budget.microusd == int(amount * 1_000_000)


def test_a_missing_file_is_a_problem_too(tmp_path: Path) -> None:
    with pytest.raises(CrewFileError) as caught:
        load(tmp_path / "none.yaml")
    assert caught.value.problems[0].code == "CREW-101"
    assert str(caught.value).startswith(f"{tmp_path / 'none.yaml'}: error: cannot be read: No such file")
    with pytest.raises(CrewFileError):
        load(tmp_path)
    with pytest.raises(CrewFileError):
        load("a\0b")


def test_folders_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crews" / "work").mkdir(parents=True)
    file = tmp_path / "crews" / "crew.yaml"
    file.write_text("crew: one\nagents: {a: {run: x, cwd: work}, b: {run: x}}")
    monkeypatch.chdir(tmp_path)
    a, b = read("crews/crew.yaml").crew.agents
    assert a.cwd == str(tmp_path.resolve() / "crews" / "work")
    assert b.cwd == str(tmp_path.resolve() / "crews")


def test_variables_are_resolved_once_and_all_missing_ones_named() -> None:
    environ = {"A": "1", "B": "${A}"}
    assert resolve_env("x${A}/${B}/$A/$${A}", environ, "key") == "x1/${A}/$A/${A}"
    with pytest.raises(SettingMissing, match=r"^agents\.a\.env\.X: .* refers to C, D, not set") as caught:
        resolve_env("${C}${A}${D}${C}", environ, "agents.a.env.X")
    assert caught.value.name == "C"


def test_every_value_that_a_process_cannot_start_without_is_named() -> None:
    crew = parsed(
        b"crew: one\n"
        b'agents: {a: {run: x, env: {ONE: "${SET}${NOT_A}", TWO: "${NOT_B}", THREE: "${SET}"}}}\n'
        b'tools: {pay: {function: "pay:pay", env: {KEY: "${NOT_C}"}}}\n'
        b'model_proxy: {upstreams: {openai: {key: "${NOT_D}"}}}\n'
    ).crew
    found = [(str(each).partition(": ")[0], each.name) for each in unset_variables(crew, {"SET": "1"})]
    assert found == [
        ("agents.a.env.ONE", "NOT_A"),
        ("agents.a.env.TWO", "NOT_B"),
        ("tools.pay.env.KEY", "NOT_C"),
        ("model_proxy.upstreams.openai", "NOT_D"),
    ]


def crew_or_problems(data: bytes) -> Crew | list[Problem]:
    try:
        return parsed(data).crew
    except CrewFileError as error:
        return error.problems


CHARACTERS = "\t[]{}\"'~#\n\x00\ud7ff\u2028\U0001f600"
FRAGMENTS = st.one_of(
    st.sampled_from(CHARACTERS),
    st.sampled_from(["&a ", "*a", "<<: ", "!!x ", "on", "1:30", "010", "- ", ": ", "  ", "|\n", "%YAML 9\n", "---\n"]),
    st.sampled_from(["${", "-1", "1e400", "\\U00110000"]),
)


@settings(max_examples=300, deadline=None)
@given(
    text=st.sampled_from([MINIMAL, SAMPLE, FULL]),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(FRAGMENTS, st.text(max_size=4))),
        min_size=1,
        max_size=6,
    ),
)
def test_a_damaged_file_is_a_crew_or_a_list_of_problems(text: str, edits: list[tuple[float, int, str]]) -> None:
    for where, cut, fragment in edits:
        at = int(where * len(text))
        text = text[:at] + fragment + text[at + cut :]
    outcome = crew_or_problems(text.encode("utf-8", "surrogatepass"))
    if isinstance(outcome, Crew):
        assert msgspec.json.decode(msgspec.json.encode(outcome), type=Crew) == outcome
        return
    assert outcome
    for problem in outcome:
        assert problem.code in CODES
        assert problem.message
        assert problem.remedy
        assert re.match(r"crew\.yaml(:\d+:\d+)?: error: ", render([problem]))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_a_list_of_problems(data: bytes) -> None:
    assert isinstance(crew_or_problems(data), list)
