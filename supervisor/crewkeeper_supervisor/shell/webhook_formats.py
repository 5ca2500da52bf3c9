"""Webhook formats: an escalation in the shape that its receiver reads. Pure: nothing is sent, no clock is read.

Names, objectives and arguments come from agents and their models, so they are hostile. Two things make them inert in
every format: characters that a terminal or a page would obey (controls, bidirectional, invisible) become visible
escapes, and `<`, `>` and `&` are written as escapes of JSON. In chat and paging, besides, lines are single, nothing is
read as markup, and mentions and previews of links are switched off.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast, get_args
from urllib.parse import urlsplit

import msgspec

from crewkeeper_bus.printable import inert
from crewkeeper_supervisor.core.escalation import Severity, severity_of

Format = Literal["standard", "cloudevents", "slack", "pagerduty", "alertmanager"]
DEPTH_MAX: Final = 64
SLACK_MAX_CHARS: Final = 2900
SLACK_HEADER_CHARS: Final = 150
SUMMARY_MAX_CHARS: Final = 1000
DEDUP_MAX_CHARS: Final = 255
_FACTS: Final = (
    ("ring", "who waits for whom"),
    ("agent", "agent"),
    ("tool", "tool"),
    ("because", "why"),
    ("why", "they say"),
    ("objective", "the crew is for"),
)
_ACTIONS: Final = {"acknowledged": "acknowledge"}
_NEVER: Final = "0001-01-01T00:00:00Z"
_LATEST_S: Final = 1e11
_LINES_MAX: Final = 30
_WORD: Final = re.compile(r"[a-z_]{1,40}")
_IN_LOGS: Final = ("crash", "restart_intensity")
"""What an agent's own last words explain."""
_TOLD: Final = "people were told: "
"""What begins the steps that say that somebody got this, too."""
_NO_CODES: Final = ("test", "incidents", "approval")
"""What messages are about that is no kind of finding, so that `supervisor explain` does not know it."""


def inert_value(value: Any, depth: int = 0) -> Any:
    """Plain data with every string of it inert, keys too; what is nested deeper than 64 is left out."""
    match value:
        case str():
            return inert(value, single=False)
        case dict() | list() | tuple() if depth >= DEPTH_MAX:
            return "…"
        case dict():
            return {inert(str(key)): inert_value(each, depth + 1) for key, each in value.items()}
        case list() | tuple():
            return [inert_value(each, depth + 1) for each in value]
        case _:
            return value


def encode(document: Any) -> bytes:
    r"""JSON without `<`, `>` and `&`, which only strings can hold: the same data, inert where it is put into a page."""
    encoded = msgspec.json.encode(document)
    return encoded.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def render(format_: Format, body: bytes, message_id: str, routing_key: str = "") -> tuple[bytes, str]:
    """A request's body and its content type.

    Args:
        format_: What the receiver reads.
        body: The escalation in standard form, from `webhook.body`.
        message_id: Its id, the same over all attempts.
        routing_key: Of the service at PagerDuty; other formats have none.
    """
    if format_ == "standard":
        return body, "application/json"
    event = _Event(msgspec.json.decode(body), message_id)
    if format_ == "cloudevents":
        return encode(_cloud_event(event)), "application/cloudevents+json"
    shapes: dict[str, Callable[[], dict[str, Any]]] = {
        "slack": lambda: _slack(event),
        "pagerduty": lambda: _pagerduty(event, routing_key),
        "alertmanager": lambda: _alertmanager(event),
    }
    return encode(shapes[format_]()), "application/json"


class _Event:
    """What every format is made of, taken from a body in standard form."""

    def __init__(self, body: dict[str, Any], message_id: str) -> None:
        self.id = message_id
        self.type = str(body.get("type", ""))
        self.at = str(body.get("timestamp", ""))
        data = body.get("data")
        self.data: dict[str, Any] = data if isinstance(data, dict) else {}
        _, self.what, self.event = [*self.type.split("."), "", "", ""][:3]

    def text(self, key: str, limit: int = SUMMARY_MAX_CHARS) -> str:
        return inert(str(self.data.get(key) or ""), limit)

    @property
    def began_at(self) -> str:
        """When that began which it is about; of what says nothing of that, when this was said."""
        began_s = self.data.get("began_s")
        if not isinstance(began_s, int | float) or not 0 < began_s < _LATEST_S:
            return self.at
        began = datetime.fromtimestamp(began_s, UTC).isoformat(timespec="milliseconds")
        return min(began.replace("+00:00", "Z"), self.at)  # the journal has another clock than this

    @property
    def is_over(self) -> bool:
        """Whether nothing of what it tells stands any more, which a digest may say as its first word."""
        return self.event == "resolved" or (self.event == "digest" and self.data.get("open") == 0)

    @property
    def about(self) -> str:
        """One name for the incident over all that is said of it; a digest is its own."""
        run, incident = self.text("run", 100), self.text("incident", 100)
        if not incident and (digest := self.text("digest", 100)):
            return f"msg_{run}_{digest}"
        return f"{run}/{incident}" if incident else self.id

    @property
    def title(self) -> str:
        done = {"resolved": "resolved: ", "unresolved": "NOT RESOLVED: "}.get(self.event, "")
        if self.event == "acknowledged":
            done = f"{self.text('by', 100) or 'somebody'} knows of it: "
        said = self.text("summary") or self.text("tool") or f"{self.what} {self.event}"
        crew = self.text("crew", 64)
        return inert(f"{crew}: {done}{said}" if crew else f"{done}{said}", SUMMARY_MAX_CHARS)

    @property
    def severity(self) -> Severity:
        worst = self.data.get("severity")  # of a digest, that of the worst in it
        if worst in get_args(Severity):
            return cast(Severity, worst)
        return severity_of(self.what, self.event)

    def lines(self) -> list[str]:
        """Everything that a person needs, line by line."""
        return [*self.facts(), *self.ways()]

    def facts(self) -> Iterator[str]:
        """What a person needs to know, line by line."""
        if now := self._now():
            yield f"now: {now}"
        for key, label in _FACTS:
            if self.data.get(key):
                yield f"{label}: {self.text(key, 300)}"
        for wait in () if self.is_over else self._listed("waits"):
            if isinstance(wait, dict):
                yield f"{inert(str(wait.get('text', '')), 300)} ({_lasting(wait.get('since_s'), wait.get('for_s'))})"
        cost = self.data.get("cost")
        if isinstance(cost, dict) and cost.get("text"):
            yield f"cost: {inert(str(cost['text']), 300)}"
        victim = self.data.get("victim")
        if isinstance(victim, dict):
            who, why = inert(str(victim.get("agent", "")), 64), inert(str(victim.get("why", "")), 300)
            if victim.get("failed", True):
                yield f"failed: the wait of {who}: {why}"
            else:
                yield f"no wait was failed; that of {who} would lose least: {why}"
        for step in self._listed("steps"):
            if step != self.data.get("summary") and not str(step).startswith(_TOLD):
                yield f"so far: {inert(str(step), 300)}"
        for each in self._listed("incidents"):
            if isinstance(each, dict):
                named = " ".join(str(each[key]) for key in ("incident", "severity", "kind", "state") if each.get(key))
                named += " NOT RESOLVED" if each.get("event") == "unresolved" else ""
                yield f"{inert(named, 120)}: {inert(str(each.get('summary', '')), 200)}"

    def _now(self) -> str:
        """What becomes of it if nobody acts; empty where that depends."""
        victim = self.data.get("victim")
        if self.event == "unresolved":
            return "nothing moves there until somebody acts"
        if self.what != "deadlock" or self.event != "opened":
            return ""
        if isinstance(victim, dict) and victim.get("failed", True):
            return "it is being freed without you: one wait was failed, and you hear whether that has helped"
        return "nothing moves there until somebody acts"

    def ways(self) -> Iterator[str]:
        """Where to look, and what can be done, line by line."""
        if self.data.get("look"):
            yield f"look: {self.text('look', 300)}"
            if _WORD.fullmatch(self.what) and self.what not in _NO_CODES:
                yield f"look: supervisor explain {self.what}"
            if self.what in _IN_LOGS and len(agents := self._listed("agents")) == 1:
                yield f"look: supervisor agent logs {self.text('run', 100)} {inert(str(agents[0]), 64)}"
        for command in self._listed("act"):
            yield f"act: {inert(str(command), 300)}"

    def links(self) -> dict[str, str]:
        links = self.data.get("links")
        found = links.items() if isinstance(links, dict) else ()
        return {inert(str(key), 30): str(url) for key, url in found if _is_link(str(url))}

    def _listed(self, key: str) -> list[Any]:
        value = self.data.get(key)
        return value[:_LINES_MAX] if isinstance(value, list) else []


def _cloud_event(event: _Event) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": f"crewkeeper/{event.text('run', 100)}",
        "type": event.type,
        "subject": event.text("incident", 100) or "digest",
        "time": event.at,
        "datacontenttype": "application/json",
        "data": event.data,
    }


def _slack(event: _Event) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain(event.title, SLACK_HEADER_CHARS)}]
    if len(event.title) > SLACK_HEADER_CHARS:
        blocks.append({"type": "section", "text": _plain(event.title, SLACK_MAX_CHARS)})
    # Each has its own limit: many facts leave room for what can be done.
    parts = ("\n".join(lines) for lines in (event.facts(), event.ways()))
    blocks += [{"type": "section", "text": _plain(text, SLACK_MAX_CHARS)} for text in parts if text]
    buttons = [
        {"type": "button", "text": _plain(label, 70), "url": url}
        for label, url in event.links().items()
        if len(url) <= 3000
    ]
    if buttons:
        blocks.append({"type": "actions", "elements": buttons[:5]})
    blocks.append({"type": "context", "elements": [_plain(f"{event.type} {event.about} {event.id}", 300)]})
    # The text is what notifications show. Mentions and links can only be made of what these three stand for.
    text = event.title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {
        "text": text,
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": blocks,
    }


def _plain(text: str, limit: int) -> dict[str, Any]:
    """Text that is shown as it is: no markup, no mentions, no `:emoji:`."""
    return {"type": "plain_text", "text": inert(text, limit, single=False), "emoji": False}


def _pagerduty(event: _Event, routing_key: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "resolve" if event.is_over else _ACTIONS.get(event.event, "trigger"),
        "dedup_key": event.about[:DEDUP_MAX_CHARS],
    }
    if made["event_action"] != "trigger":
        return made
    return made | {
        "client": "crewkeeper",
        "payload": {
            "summary": event.title,
            "source": event.text("crew", 64) or "crewkeeper",
            "severity": event.severity,
            "timestamp": event.at,
            "component": event.text("run", 100),
            "class": event.what,
            "custom_details": {"message_id": event.id, "lines": event.lines()},
        },
        "links": [{"href": url, "text": label} for label, url in event.links().items()],
    }


def _alertmanager(event: _Event) -> dict[str, Any]:
    status = "resolved" if event.is_over else "firing"
    labels = {
        "alertname": f"Crewkeeper{event.what.title().replace('_', '')}",
        # Labels are what receivers know an alert by: they stay the same until it is over.
        "severity": event.severity if event.what == "incidents" else severity_of(event.what, ""),
        "crew": event.text("crew", 64),
        "run": event.text("run", 100),
        "incident": event.text("incident", 100) or (event.about if event.what == "incidents" else ""),
    }
    annotations = {"summary": event.title, "description": "\n".join(event.lines()), "severity": event.severity}
    # Names of annotations are words.
    annotations |= {f"link_{re.sub('[^A-Za-z0-9_]', '_', label)}": url for label, url in event.links().items()}
    alert = {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": event.began_at,
        "endsAt": event.at if event.is_over else _NEVER,
        "generatorURL": "",
        "fingerprint": hashlib.sha256(event.about.encode("utf-8", "replace")).hexdigest()[:16],
    }
    return {
        "version": "4",
        "groupKey": event.about,
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "crewkeeper",
        "groupLabels": {"run": labels["run"], "incident": labels["incident"]},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": [alert],
    }


def _lasting(since_s: Any, for_s: Any) -> str:
    """How long a wait has lasted when it was told of: `since 03:12:07 UTC, for 42 s`."""
    told = f"for {inert(str(for_s), 20)} s"
    if isinstance(for_s, int | float):
        told = f"for {for_s:.1f} s" if for_s < 10 else f"for {for_s:.0f} s"
        if for_s >= 120:
            told = f"for {for_s / 60:.0f} min" if for_s < 7200 else f"for {for_s / 3600:.1f} h"
    if not isinstance(since_s, int | float) or not 0 < since_s < _LATEST_S:
        return told
    return f"since {datetime.fromtimestamp(since_s, UTC):%H:%M:%S} UTC, {told}"


def _is_link(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and " " not in url
