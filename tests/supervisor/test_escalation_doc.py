"""What docs/escalation.md shows: its crew file is right, its receiver works, its numbers are those of the program."""

import re
from datetime import UTC, datetime
from pathlib import Path

from crewkeeper_supervisor.shell import circuit, deliveries, outbox, webhook
from crewkeeper_supervisor.shell.crewfile import read

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "escalation.md").read_text()
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"


def block(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def test_the_crew_file_is_right(tmp_path):
    file = tmp_path / "crew.yaml"
    file.write_text(block("yaml"))
    found = read(file)
    assert not found.warnings
    assert [each.format for each in found.crew.escalate] == ["standard", "slack", "pagerduty"]
    assert [each.after_s for each in found.crew.escalate] == [0, 0, 600]


def test_the_receiver_takes_what_is_genuine_once_and_refuses_the_rest(monkeypatch, capsys):
    monkeypatch.setenv("OPS_WEBHOOK_SECRET", SECRET)
    names: dict[str, object] = {}
    exec(compile(block("python"), "escalation.md", "exec"), names)
    receive = names["receive"]
    assert callable(receive)
    body = b'{"type":"crewkeeper.deadlock.opened"}'
    headers = webhook.sign(SECRET, "msg_1", datetime.now(UTC), body)
    assert [receive(headers, body), receive(headers, body), receive(headers, body + b" ")] == [204, 204, 401]
    assert capsys.readouterr().out == "crewkeeper.deadlock.opened\n"


def test_the_numbers_are_those_of_the_program():
    spans = [f"{s:g} s" if s < 60 else f"{s / 60:g} min" if s < 3600 else f"{s / 3600:g} h" for s in outbox.RETRIES_S]
    text = " ".join(PAGE.split())
    assert f"after {', '.join(spans[:-1])} and {spans[-1]}" in text
    assert len(spans) + 1 == 12
    assert outbox.GIVE_UP_S == 3 * 86400
    assert outbox.TURN_S == 5
    assert (circuit.FAILURES_MAX, circuit.PAUSE_S, circuit.PAUSE_MAX_S, circuit.ABREAST_MAX) == (5, 5, 300, 4)
    assert (deliveries.KEPT_S, deliveries.KEPT_BYTES) == (30 * 86400, 512 * 1024 * 1024)
    assert (webhook.ATTEMPT_LIMIT_S, webhook.RETRY_AFTER_MAX_S, webhook.BODY_MAX_BYTES) == (15, 3600, 20_000)
