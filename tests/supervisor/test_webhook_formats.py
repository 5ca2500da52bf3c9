"""Every format tells the same, links what is to be clicked, and holds nothing that its reader would obey."""

import click
import msgspec
import pytest

from crewkeeper_bus.printable import inert
from crewkeeper_supervisor.cli.main import cli
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.shell import webhook
from crewkeeper_supervisor.shell.webhook_formats import DEPTH_MAX, encode, inert_value, render

FORMATS = ("standard", "cloudevents", "slack", "pagerduty", "alertmanager")
HOSTILE = "\x1b[2J\x9b1m\u202eevil\u2066\u200b\r\nX: 1 <!channel> <script>&lt; *b* _i_ `c` :bomb: @here <http://x|y>"


def body(kind="opened", what="deadlock", **data):
    facts = {"kind": what, "summary": "reviewer and planner wait for each other", **data}
    incident = data.get("incident", "F28-0")
    return webhook.body("trip-1", "trip", Escalate(id="28-2", incident=incident, kind=kind, body=facts))


CAN = [
    {"do": "acknowledge"},
    {"do": "resume", "agent": "reviewer"},
    {"do": "extend", "what": "microusd", "add": 500_000},
    {"do": "extend", "agent": "writer", "what": "wall_s", "add": 100},
    {"do": "extend", "what": "tokens", "add": 7},
    {"do": "kill", "agent": "reviewer"},
]
TOLD = {
    "ring": "planner → reviewer → planner",
    "waits": [
        {"text": "planner waits for reviewer to answer 'approve'", "since_s": 1_790_000_000.0, "for_s": 42.5},
        {"text": "reviewer waits for planner to answer 'ask'", "since_s": 1_790_000_000.0, "for_s": 3700},
    ],
    "cost": {"text": "$0.42 a minute over the last 5 min; $3.10 spent so far", "microusd_per_minute": 420_000},
    "steps": ["fail planner's wait: it lost least"],
    "look": "supervisor incidents show F28-0 --run trip-1",
    "can": CAN,
    "links": {"acknowledge": "https://ops.example/a/1", "kill reviewer": "https://ops.example/a/2"},
}


def rendered(format_, kind="opened", what="deadlock", **data):
    return msgspec.json.decode(render(format_, body(kind, what, **data), "msg_trip-1_28-2", "key")[0])


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


HOSTILE_DATA = {
    "summary": HOSTILE,
    "ring": HOSTILE,
    "tool": HOSTILE,
    "agent": HOSTILE,
    "waits": [{"text": HOSTILE, "for_s": HOSTILE}, HOSTILE, 5],
    "victim": {"agent": HOSTILE, "why": HOSTILE},
    "steps": [HOSTILE],
    "args": {HOSTILE: [HOSTILE, {"a": HOSTILE}]},
    "links": {HOSTILE: "javascript:alert(1)", "approve": "https://ops.example/a?x=1", "b": f"https://h/{HOSTILE}"},
    "look": HOSTILE,
}


@pytest.mark.parametrize("format_", FORMATS)
def test_hostile_texts_are_inert(format_):
    payload, _ = render(format_, body(**HOSTILE_DATA), "msg_1", "key")
    assert not set(b"<>&") & set(payload), "put into a page as it is, it opens no element"
    for each in strings(msgspec.json.decode(payload)):
        assert each.replace("\n", "").replace("\t", "").isprintable(), "no terminal obeys it"
        if format_ in ("slack", "pagerduty", "alertmanager"):
            assert "\nX: 1" not in each, "a text cannot begin a line of its own"
            assert not each.startswith("javascript:")


def test_slack_reads_no_markup_and_calls_nobody():
    document = rendered("slack", **HOSTILE_DATA)
    assert "<" not in document["text"]
    assert "&lt;!channel&gt;" in document["text"]
    assert (document["mrkdwn"], document["parse"], document["link_names"]) == (False, "none", False)
    kinds = {each["text"]["type"] for each in document["blocks"] if "text" in each}
    assert kinds == {"plain_text"}
    (actions,) = (each for each in document["blocks"] if each["type"] == "actions")
    assert [each["url"] for each in actions["elements"]] == ["https://ops.example/a?x=1"]
    assert all(each["text"]["emoji"] is False for each in actions["elements"])


def test_slack_keeps_its_limits():
    document = rendered("slack", summary="s" * 5000, steps=["t" * 900] * 20, can=CAN)
    assert "act: supervisor agent kill trip-1 reviewer" in "".join(strings(document)), "that is not cut off"
    for each in document["blocks"]:
        limit = 150 if each["type"] == "header" else 3000
        assert len(each.get("text", {}).get("text", "")) <= limit
    assert len(document["blocks"]) <= 50


@pytest.mark.parametrize("format_", FORMATS)
def test_the_incident_and_what_happened_are_in_every_format(format_):
    text = "".join(
        strings(rendered(format_, ring="planner → reviewer → planner", look="supervisor incidents show F28-0"))
    )
    for part in ("F28-0", "wait for each other", "planner → reviewer → planner", "supervisor incidents show F28-0"):
        assert part in text


def test_pagerduty_opens_and_resolves_under_one_key():
    opened, worse, over = (rendered("pagerduty", kind) for kind in ("opened", "unresolved", "resolved"))
    assert {each["dedup_key"] for each in (opened, worse, over)} == {"trip-1/F28-0"}
    assert [each["event_action"] for each in (opened, worse, over)] == ["trigger", "trigger", "resolve"]
    assert [each["payload"]["severity"] for each in (opened, worse)] == ["error", "critical"]
    assert opened["routing_key"] == "key"
    long = rendered("pagerduty", run="r" * 400, summary="s" * 5000)
    assert len(long["dedup_key"]) <= 255
    assert len(long["payload"]["summary"]) <= 1024


def test_a_digest_is_its_own_and_lists_its_incidents():
    data = {
        "incident": "",
        "count": 2,
        "incidents": [{"incident": "F1", "kind": "loop", "state": "open", "summary": "s"}],
    }
    document = rendered("pagerduty", "digest", "incidents", **data)
    assert document["dedup_key"] == "msg_trip-1_28-2"
    assert "F1 loop open: s" in document["payload"]["custom_details"]["lines"]


@pytest.mark.parametrize(("agents", "told"), [(["crasher"], True), (["a", "b"], False), ([], False)])
def test_of_a_crash_the_log_is_named_and_nothing_is_said_twice(agents, told):
    steps = ["reviewer crashed", "tell people", "people were told: 204 from ops", "people could NOT be told: 500"]
    text = rendered(
        "slack", "opened", "crash", summary="reviewer crashed", steps=steps, agents=agents, look="supervisor x"
    )
    shown = "\n".join(strings(text))
    assert ("look: supervisor agent logs trip-1 crasher" in shown) == told
    assert [line for line in shown.splitlines() if line.startswith("so far: ")] == [
        "so far: tell people",
        "so far: people could NOT be told: 500",
    ]


def told_of_a_digest(format_):
    """What receivers get of one digest: that there are two, that kim knows, that they are over."""
    facts = {"incident": "", "severity": "error", "began_s": 1_790_000_000.0, "count": 2}
    first = rendered(format_, "digest", "incidents", **facts, open=2)
    later = [
        rendered(format_, kind, "incidents", **facts, digest="28-2", **more)
        for kind, more in (("acknowledged", {"by": "kim"}), ("resolved", {"open": 0}))
    ]
    return [first, *later]


def test_a_digest_is_one_incident_at_pagerduty_until_it_is_over():
    told = told_of_a_digest("pagerduty")
    assert [each["event_action"] for each in told] == ["trigger", "acknowledge", "resolve"]
    assert {each["dedup_key"] for each in told} == {"msg_trip-1_28-2"}


def test_a_digest_is_one_alert_until_it_is_over():
    told = [each["alerts"][0] for each in told_of_a_digest("alertmanager")]
    assert [each["status"] for each in told] == ["firing", "firing", "resolved"]
    for same in ("labels", "startsAt", "fingerprint"):
        assert told[0][same] == told[1][same] == told[2][same]
    assert told[2]["endsAt"] > told[2]["startsAt"]
    assert told[0]["labels"]["incident"] == "msg_trip-1_28-2", "another digest is another alert"


def test_a_digest_of_what_is_over_wakes_nobody():
    facts = {"incident": "", "severity": "info", "count": 2, "open": 0}
    assert rendered("pagerduty", "digest", "incidents", **facts)["event_action"] == "resolve"
    assert rendered("alertmanager", "digest", "incidents", **facts)["status"] == "resolved"
    assert "act" not in rendered("standard", "digest", "incidents", **facts)["data"]


ALERTMANAGER = {
    "version": str,
    "groupKey": str,
    "truncatedAlerts": int,
    "status": str,
    "receiver": str,
    "groupLabels": dict,
    "commonLabels": dict,
    "commonAnnotations": dict,
    "externalURL": str,
    "alerts": list,
}
"""What its documentation has in a message to a receiver, version 4."""
ALERT = {
    "status": str,
    "labels": dict,
    "annotations": dict,
    "startsAt": str,
    "endsAt": str,
    "generatorURL": str,
    "fingerprint": str,
}


def test_alertmanager_fires_and_resolves_one_alert():
    began_s = 1_790_000_000.25
    told = [rendered("alertmanager", kind, began_s=began_s) for kind in ("opened", "unresolved", "resolved")]
    for document in told:
        assert {key: type(value) for key, value in document.items()} == ALERTMANAGER
        (alert,) = document["alerts"]
        assert {key: type(value) for key, value in alert.items()} == ALERT
        assert all(isinstance(text, str) for text in (*alert["labels"].values(), *alert["annotations"].values()))
        assert alert["startsAt"] == "2026-09-21T14:13:20.250Z", "it began when it was found, whatever is said of it"
        assert (alert["status"], alert["labels"]["alertname"]) == (document["status"], "CrewkeeperDeadlock")
    opened, helpless, over = (document["alerts"][0] for document in told)
    assert [document["status"] for document in told] == ["firing", "firing", "resolved"]
    assert opened["fingerprint"] == over["fingerprint"]
    assert opened["labels"] == helpless["labels"] == over["labels"], "by its labels a receiver knows it again"
    assert [each["annotations"]["severity"] for each in (opened, helpless, over)] == ["error", "critical", "info"]
    assert opened["endsAt"] == helpless["endsAt"] == "0001-01-01T00:00:00Z"
    assert over["endsAt"] > over["startsAt"]


def test_no_alert_ends_before_it_began():
    (alert,) = rendered("alertmanager", "resolved", began_s=4_000_000_000.0)["alerts"]
    assert alert["startsAt"] == alert["endsAt"], "the clock of the journal is ahead"


@pytest.mark.parametrize(("severity", "shown"), [("error", "error"), ("critical", "critical"), ("evil", "warning")])
def test_a_digest_is_as_severe_as_the_worst_in_it(severity, shown):
    document = rendered("pagerduty", "digest", "incidents", incident="", severity=severity)
    assert document["payload"]["severity"] == shown


def test_a_cloud_event_has_its_attributes_and_the_same_data():
    payload, content_type = render("cloudevents", body(), "msg_1", "")
    document = msgspec.json.decode(payload)
    assert content_type == "application/cloudevents+json"
    assert (document["specversion"], document["id"], document["type"]) == ("1.0", "msg_1", "crewkeeper.deadlock.opened")
    assert document["data"] == msgspec.json.decode(body())["data"]


@pytest.mark.parametrize("format_", FORMATS)
def test_any_document_can_be_shaped(format_):
    for document in ({}, {"data": 5}, {"type": 1, "data": {"waits": 3, "victim": [], "steps": {}, "links": []}}):
        assert render(format_, msgspec.json.encode(document), "msg_1")


def test_inert_texts_stay_readable():
    assert inert("a\x1b[2J\u202eb\nc\U000e0001") == "a\\x1b[2J\\u202eb\\nc\\U000e0001"
    assert inert("a\nb", single=False) == "a\nb"
    assert inert("abcdef", 4) == "abc…"
    assert encode({"a": "<b>&"}) == b'{"a":"\\u003cb\\u003e\\u0026"}'
    assert msgspec.json.decode(encode("<b>&")) == "<b>&"
    deep = leaf = []
    for _ in range(DEPTH_MAX * 3):
        leaf.append([])
        leaf = leaf[0]
    assert "…" in str(inert_value(deep))


def test_what_can_be_done_is_said_as_commands_of_plain_words():
    acts = rendered("standard", can=CAN)["data"]["act"]
    assert acts == [
        "supervisor hooks ack trip-1 F28-0",
        "supervisor agent resume trip-1 reviewer",
        "supervisor budget top-up trip-1 usd=0.50",
        "supervisor budget top-up trip-1 wall=100s --agent writer",
        "supervisor budget top-up trip-1 tokens=7",
        "supervisor agent kill trip-1 reviewer",
        "supervisor down trip-1",
    ]
    for line in acts:
        check_command(line)
    (known,) = rendered("standard", "digest", "incidents", incident="", can=CAN[:1])["data"]["act"][:-1]
    assert known == "supervisor hooks ack trip-1 msg_trip-1_28-2"
    asked = rendered("standard", what="approval", approval="A1-0")["data"]["act"]
    assert asked == ["supervisor approvals approve trip-1 A1-0", "supervisor approvals deny trip-1 A1-0"]
    assert "act" not in rendered("standard", "resolved")["data"]
    hostile = rendered("standard", can=[{"do": "kill", "agent": "a; rm -rf ~"}], incident="F1; rm")["data"]["act"]
    assert not [line for line in hostile if "rm" in line]
    assert rendered("standard", can=CAN[:1], incident="$(x)")["data"]["act"] == ["supervisor down trip-1"]
    assert rendered("standard", what="approval", approval="$(x)")["data"].get("act", []) == []
    assert "act: supervisor down trip-1" in rendered("pagerduty")["payload"]["custom_details"]["lines"]


def check_command(line):
    command, words = cli, line.split()[1:]
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
    assert command is not None, line


@pytest.mark.parametrize("format_", FORMATS)
def test_who_is_woken_reads_what_is_stuck_since_when_what_it_costs_and_what_to_do(format_):
    text = "\n".join(strings(rendered(format_, **TOLD)))
    for part in (
        "reviewer and planner wait for each other",
        "planner → reviewer → planner",
        "planner waits for reviewer to answer 'approve'",
        "$0.42 a minute over the last 5 min",
        "fail planner's wait: it lost least",
        "supervisor agent kill trip-1 reviewer",
        "supervisor incidents show F28-0 --run trip-1",
        "https://ops.example/a/1",
        "https://ops.example/a/2",
    ):
        assert part in text, part
    if format_ in ("slack", "pagerduty", "alertmanager"):
        assert "(since 14:13:20 UTC, for 42 s)" in text
        assert "(since 14:13:20 UTC, for 62 min)" in text


def test_what_is_acknowledged_is_said_under_the_same_key():
    told = {"by": "kim", "why": "on it"}
    known = rendered("pagerduty", "acknowledged", **told)
    assert (known["event_action"], known["dedup_key"]) == ("acknowledge", "trip-1/F28-0")
    assert "payload" not in known
    digest = rendered("pagerduty", "acknowledged", "incidents", incident="", digest="20-0", **told)
    assert digest["dedup_key"] == "msg_trip-1_20-0", "as the digest itself"
    assert rendered("slack", "acknowledged", **told)["text"].startswith("trip: kim knows of it: reviewer and planner")
    assert rendered("alertmanager", "acknowledged", **told)["status"] == "firing"
    names = rendered("alertmanager", **TOLD)["alerts"][0]["annotations"]
    assert {"link_acknowledge", "link_kill_reviewer"} <= names.keys()


@pytest.mark.parametrize("since_s", [None, "soon", -5, 0, 1e300, float("inf"), True, [1]])
def test_no_time_breaks_a_line(since_s):
    waits = [{"text": "a waits for b", "since_s": since_s, "for_s": since_s}]
    document = msgspec.json.encode({"type": "crewkeeper.deadlock.opened", "data": {"waits": waits}})
    assert b"a waits for b" in render("slack", document, "msg_1")[0]


@pytest.mark.parametrize(
    ("kind", "victim", "now"),
    [
        ("opened", {"agent": "a", "why": "it loses least", "failed": True}, "it is being freed without you"),
        ("opened", {"agent": "a", "why": "it loses least", "failed": False}, "nothing moves there until somebody acts"),
        ("opened", None, "nothing moves there until somebody acts"),
        ("unresolved", {"agent": "a", "why": "it loses least", "failed": True}, "nothing moves there until somebody"),
    ],
)
def test_who_is_woken_reads_first_whether_to_act(kind, victim, now):
    said = rendered("slack", kind, **TOLD, victim=victim)["blocks"][1]["text"]["text"]
    assert said.startswith(f"now: {now}")


def test_who_is_woken_is_told_what_the_word_means():
    lines = rendered("pagerduty", "opened", "loop", look="supervisor why F1-0")["payload"]["custom_details"]["lines"]
    assert "look: supervisor explain loop" in lines
    assert not any(line.startswith("now: ") for line in lines)
    for other in ("incidents", "approval"):
        assert "supervisor explain" not in str(rendered("pagerduty", "opened", other, look="supervisor why F1-0"))
    assert "now: " not in str(rendered("slack", "resolved", **TOLD))
