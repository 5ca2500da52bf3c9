"""Metrics: what a controller does, counted for Prometheus; names are in `metric_table`, serving is in `metrics_site`.

Counters count what happened here while this controller owned a run; what several controllers count adds up. What stood
in the journal before is only counted where nobody owned the run: after the last word of an owner. Gauges are read off
the cores of owned runs when somebody asks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from crewkeeper_supervisor.core.booking import Booking
from crewkeeper_supervisor.core.commands import AnswerCall, AskApproval, Command, TellService
from crewkeeper_supervisor.core.findings import SEVERE, Incident
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.shell import metric_table as table
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.shell.metric_table import BY_NAME, OTHER
from crewkeeper_supervisor.shell.observing import Let, Unseen, Words

prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double every series
_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TOKENS: Final = (("input_tokens", "input"), ("output_tokens", "output"))
_NO_MODEL: Final = "none"
"""Stands for what tools cost, and for what agents say they spent beside the gate."""
_GAUGES: Final = tuple(metric for metric in table.METRICS if metric.kind == "gauge" and metric.labels != ("version",))


class Capped:
    """Names as labels: the first so many of each group, the others as `other`."""

    def __init__(self, label: str, most: int, folded: prometheus.Counter) -> None:
        self._most = most
        self._known: dict[str, set[str]] = {}
        self._folded = folded.labels(label)

    def name(self, name: str, group: str = "", *, new: bool = True) -> str:
        """The label for a name; groups are to be few. Without `new`, only of names that are known already."""
        known = self._known.setdefault(group, set())
        if name in known:
            return name
        if new and len(known) < self._most:
            known.add(name)
            return name
        self._folded.inc()
        return OTHER


class Metrics(Collector):
    """The metrics of one controller.

    Attributes:
        registry: What is shown to Prometheus.
        waiting: Messages to people in the outbox that are due; None: not known.
        later: Those in it whose recipients' turn comes later; None: not known.
        dead: Those given up; None: not known.
        lag_s: How late timers came.
        connected: Whether there is a connection.
        errors: Failures inside telemetry, by part.
        spans: Spans of this controller, by outcome.
    """

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.waiting: int | None = None
        self.later: int | None = None
        self.dead: int | None = None
        self.lag_s = 0.0
        self.connected = False
        self.errors: dict[str, int] = {}
        self.spans: dict[str, int] = {}
        self._runs: dict[str, RunMeter] = {}
        self._gauges: list[GaugeMetricFamily] = []
        self._raised: dict[tuple[str, str], int] = {}
        """What counters that others count for us stand at."""
        self._counters: dict[str, prometheus.Counter] = {}
        for metric in table.METRICS:
            if metric.kind == "counter":
                made = prometheus.Counter(metric.name, metric.help, metric.labels, registry=self.registry)
                self._counters[metric.name.removeprefix("supervisor_").removesuffix("_total")] = made
        self.gate_decision = self._histogram("supervisor_gate_decision_seconds")
        self.detection_delay = self._histogram("supervisor_detection_delay_seconds")
        info = BY_NAME["supervisor_build_info"]
        prometheus.Gauge(info.name, info.help, info.labels, registry=self.registry).labels(_version()).set(1)
        folded = self._counters["labels_folded"]
        self.crews = Capped("crew", table.CREWS_MAX, folded)
        self.agents = Capped("agent", table.AGENTS_MAX, folded)
        self.tools = Capped("tool", table.TOOLS_MAX, folded)
        self.models = Capped("model", table.MODELS_MAX, folded)
        self.codes = Capped("code", table.CODES_MAX, folded)
        self._endpoints = Capped("endpoint", table.ENDPOINTS_MAX, folded)
        prometheus.ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def _histogram(self, name: str) -> prometheus.Histogram:
        metric = BY_NAME[name]
        return prometheus.Histogram(metric.name, metric.help, registry=self.registry, buckets=_BUCKETS_S)

    # --- what the controller tells (observing.Observer) ---

    def run(self, run: str, fold: Any) -> "RunMeter":
        """Begin to count a run."""
        meter = self._runs[run] = RunMeter(self, run, fold)
        return meter

    def webhook(self, host: str, outcome: str) -> None:
        """Count an attempt to tell people."""
        self.count("webhook_deliveries", self._endpoints.name(host or "unknown"), outcome)

    # --- counting ---

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Raise the counter `supervisor_<name>_total`."""
        self._counters[name].labels(*labels).inc(by)

    def forget(self, meter: "RunMeter") -> None:
        """A run is owned here no more: its gauges go, what was counted stays."""
        if self._runs.get(meter.run) is meter:
            del self._runs[meter.run]

    # --- what is read off when somebody asks ---

    def text(self) -> bytes:
        """Everything in the text format of Prometheus, version 0.0.4."""
        self.read_off()
        return self.written()

    def read_off(self) -> None:
        """Read the gauges off the cores; in the event loop, which changes them."""
        for part, count in self.errors.items():
            self._raise_to("telemetry_errors", count, part)
        for outcome, count in self.spans.items():
            self._raise_to("spans", count, outcome)
        self._gauges = list(self._read_gauges())

    def written(self) -> bytes:
        """The text of what was read off last, with the counters as they are; may run in another thread."""
        return prometheus.generate_latest(self.registry)

    def _raise_to(self, name: str, value: int, label: str) -> None:
        before = self._raised.get((name, label), 0)
        self.count(name, label, by=max(0, value - before))
        self._raised[name, label] = max(value, before)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, without values: nothing is read off to register them."""
        return (GaugeMetricFamily(metric.name, metric.help, labels=metric.labels) for metric in _GAUGES)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges as they were read off."""
        return iter(self._gauges)

    def _read_gauges(self) -> Iterator[GaugeMetricFamily]:
        values: dict[str, dict[tuple[str, ...], float]] = {metric.name: {} for metric in _GAUGES}

        def add(name: str, *labels: str, value: float = 1, highest: bool = False) -> None:
            family = values[f"supervisor_{name}"]
            before = family.get(labels, 0.0)
            family[labels] = max(before, value) if highest else before + value

        add("connected", value=self.connected)
        add("event_loop_lag_seconds", value=self.lag_s)
        for name, length in (("waiting", self.waiting), ("later", self.later), ("dead", self.dead)):
            if length is not None:
                add(f"webhooks_{name}", value=length)
        for meter in list(self._runs.values()):
            meter.read_off(add)
        for metric in _GAUGES:
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, value in values[metric.name].items():
                family.add_metric(labels, value)
            yield family


class RunMeter:
    """Counts one run while it is owned here."""

    def __init__(self, metrics: Metrics, run: str, fold: Any) -> None:
        self.run = run
        self._metrics = metrics
        self._fold = fold if isinstance(fold, Supervisor) else None
        self._owned = False
        self._kinds: Counter[str] = Counter()
        """Kinds of entries that are not counted yet."""
        self._gap: Counter[str] = Counter()
        """While the journal is caught up with: kinds of entries between the last two words of owners."""
        self._words = Words()
        self._crew = ""
        self._unseen = Unseen()
        """Findings that were counted."""
        self._declared: frozenset[str] = frozenset()
        """Names of the agents of the crew file."""

    # --- what the owner tells (observing.RunObserver) ---

    def took(self, entries: Sequence[Entry]) -> None:
        """Count entries."""
        kinds = self._kinds
        for entry in entries:
            parts = entry.subject.split(".", 4)
            kind = parts[2] if len(parts) == 5 and parts[2] in table.KINDS else OTHER
            if not self._owned and self._words.hear(entry, kind, parts[3] if kind != OTHER else ""):
                self._gap, self._kinds = self._kinds, Counter()
                kinds = self._kinds
            kinds[kind] += 1
        if self._owned:
            self._flush()
            self._look()

    def owned(self) -> None:
        """From now on everything counts, and what came while nobody was there."""
        self._metrics.count("ownerships", "owned")
        self._owned = True
        self._kinds += self._gap
        self._flush()
        if self._fold is not None:
            self._unseen.skip(self._fold.incidents, self._words.before)
        self._look()

    def sent(self, command: Command, attempt: int, error: str, latency_ms: float) -> None:
        """Count a command, and what it decides when it is sent for the first time."""
        outcome = "failed" if error else "sent" if attempt == 1 else "again"
        self._metrics.count("effects", type(command).__name__, outcome)
        if attempt > 1:
            return
        match command:
            case AskApproval():
                self._metrics.count("tool_calls", self._named(), self._tool(command.tool), "ask")
            case AnswerCall() | TellService() if command.booking is not None:
                self._booked(command.booking)
                if command.booking.act in ("reserve", "refuse"):
                    self._metrics.gate_decision.observe(latency_ms / 1000)
            case _:
                return

    def left(self, how: Let) -> None:
        """Count how it ended."""
        if self._owned:
            self._metrics.count("ownerships", how)
        self._metrics.forget(self)

    # --- counting ---

    def _named(self) -> str:
        """The crew as a label."""
        if not self._crew and self._fold is not None and self._fold.crew is not None:
            crew = self._fold.crew
            self._crew = self._metrics.crews.name(crew.name)
            self._declared = frozenset(instance for agent in crew.agents for instance in agent.instances)
        return self._crew or OTHER

    def _agent(self, name: str) -> str:
        """An agent as a label: one of the crew file; helpers that agents let in are named by these."""
        crew = self._named()
        return self._metrics.agents.name(name, crew) if name in self._declared else OTHER

    def _tool(self, name: str) -> str:
        """A tool as a label: the key of the crew file; names that a model made up stand together."""
        tools = self._fold.crew.tools if self._fold is not None and self._fold.crew is not None else {}
        declared = name if name in tools else name.partition(".")[0]
        return self._metrics.tools.name(declared, self._named()) if declared in tools else OTHER

    def _flush(self) -> None:
        crew = self._named()
        for kind, count in self._kinds.items():
            self._metrics.count("messages", crew, kind, by=count)
        self._kinds.clear()

    def _look(self) -> None:
        """Count findings that are new: they stand last."""
        for incident in self._unseen.new(self._fold.incidents) if self._fold is not None else ():
            self._found(incident)

    def _found(self, incident: Incident) -> None:
        finding = incident.finding
        severity = "error" if finding.kind in SEVERE else "warning"
        self._metrics.count("incidents", self._named(), finding.kind, severity)
        if finding.kind == "deadlock" and finding.edges:
            closed_s = max(edge.since_s for edge in finding.edges)
            self._metrics.detection_delay.observe(max(0.0, finding.at_s - closed_s))

    def _booked(self, booking: Booking) -> None:
        metrics, crew = self._metrics, self._named()
        if booking.act in ("reserve", "refuse"):
            decision = "allow" if booking.act == "reserve" else "deny"
            if "model_calls" in booking.amounts:
                metrics.count("model_calls", crew, self._model(booking, new=booking.act == "reserve"), decision)
            else:
                metrics.count("tool_calls", crew, self._tool(booking.what), decision)
            if booking.act == "refuse":
                metrics.count("refusals", crew, metrics.codes.name(booking.code or "refused", crew))
        if booking.act in ("settle", "expire"):
            model = self._model(booking) if "model_calls" in booking.amounts else _NO_MODEL
            self._charged(booking.agent, model, booking.amounts)
        for agent, amounts in booking.noted.items():
            self._charged(agent, _NO_MODEL, amounts)

    def _model(self, booking: Booking, *, new: bool = True) -> str:
        """A model as a label; refused names take no place from those that were granted."""
        return self._metrics.models.name(booking.what, f"{self._named()}/{self._agent(booking.agent)}", new=new)

    def _charged(self, agent: str, shown: str, amounts: dict[str, int]) -> None:
        metrics, crew, name = self._metrics, self._named(), self._agent(agent)
        for dimension, direction in _TOKENS:
            if count := amounts.get(dimension, 0):
                metrics.count("tokens", crew, name, shown, direction, by=count)
        if cost := amounts.get("microusd", 0):
            metrics.count("cost_usd", crew, name, shown, by=cost / 1e6)

    # --- gauges ---

    def read_off(self, add: Any) -> None:
        """Add the gauges of this run."""
        fold = self._fold
        if fold is None:
            return
        add("runs", fold.state if self._owned else "catching_up")
        if not self._owned:
            return
        crew = self._named()
        for status, count in Counter(agent.status for agent in fold.agents.values()).items():
            add("agents", crew, status, value=count)
        open_ = (incident.finding.kind for incident in fold.incidents.values() if incident.state != "resolved")
        for kind, count in Counter(open_).items():
            add("incidents_open", crew, kind, value=count)
        gate = fold.gate
        add("gate_calls_open", crew, value=len(gate.open))
        add("approvals_pending", crew, value=_count(each.state == "pending" for each in gate.approvals.values()))
        add("questions_open", crew, value=len(fold.questions))
        add("commands_pending", crew, value=len(fold.pending))
        account = gate.accounts.crew
        for resource, limit in account.limit.items():
            used = sum(part.get(resource, 0) for part in (account.settled, account.held, account.over))
            add("budget_used_ratio", crew, resource, value=used / limit if limit else 1.0, highest=True)


def _count(each: Iterable[bool]) -> int:
    return sum(each)


def _version() -> str:
    try:
        return version("crewkeeper")
    except PackageNotFoundError:  # run from its sources
        return "-"
