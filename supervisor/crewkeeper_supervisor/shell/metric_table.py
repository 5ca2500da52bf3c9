"""Metric table: every metric of the supervisor, with its kind, labels and meaning; counting is in `metrics`.

A label has few values, whatever agents do: names come from crew files, from this program, or are capped. Ids of runs,
calls and messages are no labels.
"""

from typing import Final, Literal

from msgspec import Struct

Kind = Literal["counter", "gauge", "histogram"]


class Metric(Struct, frozen=True, kw_only=True):
    """One metric."""

    name: str
    """As Prometheus shows it; counters end in `_total`."""
    kind: Kind
    labels: tuple[str, ...] = ()
    help: str


def _counter(name: str, labels: str, help_: str) -> Metric:
    return Metric(name=f"supervisor_{name}_total", kind="counter", labels=tuple(labels.split()), help=help_)


def _gauge(name: str, labels: str, help_: str) -> Metric:
    return Metric(name=f"supervisor_{name}", kind="gauge", labels=tuple(labels.split()), help=help_)


def _histogram(name: str, help_: str) -> Metric:
    return Metric(name=f"supervisor_{name}_seconds", kind="histogram", help=help_)


METRICS: Final = (
    _gauge("build_info", "version", "1, with the version of this controller"),
    _gauge("connected", "", "1 while the controller has its connection to NATS"),
    _gauge("event_loop_lag_seconds", "", "The latest that a due timer of the controller came within the last minute"),
    _gauge("runs", "state", "Runs that this controller owns: catching_up, or the state of the run"),
    _counter("ownerships", "outcome", "Runs taken over (owned), and how each was let go: over, lost, failed, ended"),
    _gauge("agents", "crew state", "Agents of owned runs, by status"),
    _counter("messages", "crew kind", "Journal entries of owned runs, by kind of subject; kinds unknown are other"),
    _counter("incidents", "crew kind severity", "Findings, by kind; severity is error or warning"),
    _gauge("incidents_open", "crew kind", "Findings that are not over"),
    _histogram("detection_delay", "From the last wait that closed a deadlock to its finding, journal time"),
    _counter("tool_calls", "crew tool decision", "Calls of tools decided: allow, deny, or ask for an approval"),
    _counter("model_calls", "crew model decision", "Calls of models decided: allow, deny, or ask for an approval"),
    _counter("refusals", "crew code", "Calls refused at the gate, by the code that the caller was told"),
    _histogram("gate_decision", "From reading a call in the journal to sending its grant or refusal"),
    _gauge("gate_calls_open", "crew", "Calls at the gate that are not over: waiting, or running"),
    _counter("tokens", "crew agent model direction", "Tokens charged, as the ledger books them: input, output"),
    _counter("cost_usd", "crew agent model", "Dollars charged, as the ledger books them"),
    _gauge(
        "budget_used_ratio", "crew resource", "Spent and held of each of the crew's limits; of several runs the most"
    ),
    _gauge("approvals_pending", "crew", "Calls that wait for a person's approval"),
    _gauge("questions_open", "crew", "Questions of agents that wait for a person's answer"),
    _counter("effects", "kind outcome", "Commands sent, by kind: sent, again (no trace of it yet), or failed"),
    _gauge("commands_pending", "crew", "Commands decided of which the journal shows no trace yet"),
    _counter("webhook_deliveries", "endpoint outcome", "Attempts to tell people, by host: delivered, failed, dead"),
    _gauge("webhooks_waiting", "", "Messages to people in the outbox that are due, of all controllers"),
    _gauge("webhooks_later", "", "Messages for recipients whose turn comes later, if nobody acknowledges"),
    _gauge("webhooks_dead", "", "Messages to people that were given up and are kept, of all controllers"),
    _counter("spans", "outcome", "Spans of this controller: exported, failed, dropped"),
    _counter("telemetry_errors", "part", "Failures inside metrics or traces themselves, none of which touched a run"),
    _counter("labels_folded", "label", "How often a name stood as `other`, because there were too many"),
)
"""All of them, in the order of docs/metrics.md."""

BY_NAME: Final = {metric.name: metric for metric in METRICS}

KINDS: Final = frozenset(("req", "rep", "cancel", "prog", "msg", "tool", "hb", "note", "ctl", "op"))
"""Kinds of subjects that are counted by name."""
OTHER: Final = "other"
"""What stands for names that are unknown, or beyond a cap."""
CREWS_MAX: Final = 200
AGENTS_MAX: Final = 200
"""Of one crew."""
TOOLS_MAX: Final = 200
"""Of one crew."""
MODELS_MAX: Final = 10
"""Of one agent: what it calls models is its own word."""
ENDPOINTS_MAX: Final = 50
CODES_MAX: Final = 50
"""Of one crew."""
