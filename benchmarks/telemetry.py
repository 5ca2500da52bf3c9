"""Telemetry: what metrics and traces add to a message in a controller, and to a call in an agent, off and on.

`python -m benchmarks.telemetry`. Off and on take turns within one run; the ratio is what counts. The bus is in memory,
so that nothing hides what the client itself costs.
"""

import gc
import time

import anyio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import crewkeeper_bus as bus
from benchmarks.ground import load, median, report
from benchmarks.monitor import journal
from crewkeeper_bus import codec, membership, messages, subjects
from crewkeeper_bus.memory_transport import MemoryBus
from crewkeeper_bus.subjects import Kind
from crewkeeper_bus.tracing import Tracing
from crewkeeper_supervisor.core.supervisor import Supervisor
from crewkeeper_supervisor.shell.journal import BATCH_MAX, Entry
from crewkeeper_supervisor.shell.metrics import Metrics
from crewkeeper_supervisor.shell.observing import Observers
from crewkeeper_supervisor.shell.run_traces import Traces, _Ids

ROUNDS = 5
CALLS = 1000
RUN = "bench"


class Nowhere(SpanExporter):
    """Takes spans and keeps none: what a collector costs is its own affair."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Sending:
    """As `trace_export.Exporting`."""

    def __init__(self) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(Nowhere()))

    def counts(self) -> dict[str, int]:
        return {}


def _fold(batches: list[list[Entry]], observers: Observers | None) -> float:
    """Microseconds of processor time for one entry, read and folded as an owner does it."""
    core = Supervisor(RUN)
    observed = None if observers is None else observers.run(RUN, core)
    if observed is not None:
        observed.owned()
    begun = time.process_time()
    for batch in batches:
        for entry in batch:
            core.handle(core.read(*entry))
        if observed is not None:
            observed.took(batch)
    return 1e6 * (time.process_time() - begun) / sum(map(len, batches))


def controller() -> None:
    """Measure and print what a controller pays."""
    entries = [Entry(*each) for each in journal()]
    batches = [entries[at : at + BATCH_MAX] for at in range(0, len(entries), BATCH_MAX)]
    taken: dict[str, list[float]] = {"off": [], "metrics": [], "both": []}
    sending = Sending()
    gc.collect()
    gc.disable()
    for _ in range(ROUNDS):
        taken["off"].append(_fold(batches, None))
        taken["metrics"].append(_fold(batches, Observers({"metrics": Metrics()})))
        both = {"metrics": Metrics(), "traces": Traces(sending, _Ids())}  # type: ignore[arg-type]
        taken["both"].append(_fold(batches, Observers(both)))
    gc.enable()
    metrics = Metrics()
    _fold(batches, Observers({"metrics": metrics}))
    begun = time.process_time()
    for _ in range(20):
        metrics.text()
    page_ms = 1e3 * (time.process_time() - begun) / 20
    off = median(taken["off"])
    report(
        f"Controller, CPU of one journal entry ({len(entries)} entries, {ROUNDS} rounds)",
        [
            ("off", f"{off:6.2f} µs"),
            ("metrics", f"{median(taken['metrics']):6.2f} µs   {median(taken['metrics']) / off:5.2f} of off"),
            ("metrics and traces", f"{median(taken['both']):6.2f} µs   {median(taken['both']) / off:5.2f} of off"),
            ("one page of metrics", f"{page_ms:6.2f} ms"),
        ],
    )


async def _round() -> float:
    """Microseconds of processor time for one call and its answer, both clients together."""
    over = MemoryBus()

    def client(name: str) -> bus.Client:
        return bus.connect(run=RUN, agent=name, transport=over.connect(name), heartbeat_s=300)

    async with client("asker") as asker, client("echo") as echo:
        echo.serve()(_echo)
        above = over.connect()
        for name in ("asker", "echo"):
            begin = codec.encode(messages.Begin(id=f"b-{name}", peers=("asker", "echo")))
            await above.publish(subjects.build(RUN, Kind.CTL, "_", name, f"b-{name}"), begin)
        await asker.ready()
        await echo.ready()
        begun = time.process_time()
        for _ in range(CALLS):
            await asker.ask("echo", {"text": "x" * 200})
        return 1e6 * (time.process_time() - begun) / CALLS


async def _echo(request: bus.Request) -> object:
    await anyio.lowlevel.checkpoint()
    return request.body


async def agents() -> None:
    """Measure and print what agents pay."""
    provider = Sending().provider
    off, on = [], []
    found = membership.tracing_of
    await _round()  # what is imported and compiled on the way is nobody's
    for _ in range(ROUNDS):
        off.append(await _round())
        membership.tracing_of = lambda run, agent: Tracing(run, agent, provider)
        on.append(await _round())
        membership.tracing_of = found
    report(
        f"Agents, CPU of one call and its answer ({CALLS} calls, {ROUNDS} rounds)",
        [
            ("off", f"{median(off):6.1f} µs"),
            ("traced, two spans", f"{median(on):6.1f} µs   {median(on) / median(off):5.2f} of off"),
        ],
    )


if __name__ == "__main__":
    print(load())
    controller()
    anyio.run(agents)
