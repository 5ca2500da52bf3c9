"""`supervisor metrics`: what there is to measure, and files that make Prometheus and Grafana use it."""

from pathlib import Path
from typing import Final

import click
from msgspec import Struct

from crewkeeper_supervisor.cli.output import emit_rows, output_option, write

FOLDER: Final = Path(__file__).parents[1] / "monitoring"
RULES: Final = FOLDER / "alerts.yaml"
DASHBOARD: Final = FOLDER / "dashboard.json"


class MetricRow(Struct, frozen=True, kw_only=True):
    """One metric."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


@click.group()
def metrics() -> None:
    """List metrics; print alert rules and a dashboard for them.

    `supervisor serve --metrics 127.0.0.1:9464` shows them to Prometheus; `supervisor up` takes the same option.
    """


@metrics.command("ls")
@output_option()
def ls(output: str) -> None:
    """List the metrics that a controller shows."""
    from crewkeeper_supervisor.shell.metric_table import METRICS
    from crewkeeper_supervisor.views.tables import Table

    rows = [MetricRow(name=each.name, kind=each.kind, labels=each.labels, help=each.help) for each in METRICS]

    def table(wide: bool) -> Table:
        columns = ("METRIC", "KIND", "LABELS", *(("MEANING",) if wide else ()))
        cells = [(row.name, row.kind, " ".join(row.labels) or "-", *((row.help,) if wide else ())) for row in rows]
        return Table(columns=columns, rows=tuple(cells))

    emit_rows(rows, output, table=table)


@metrics.command()
def rules() -> None:
    """Print alert rules for Prometheus.

    Example: supervisor metrics rules > crewkeeper.rules.yaml, and name that file under rule_files.
    """
    write(RULES.read_text("utf-8").rstrip())


@metrics.command()
def dashboard() -> None:
    """Print a dashboard for Grafana, to import as JSON."""
    write(DASHBOARD.read_text("utf-8").rstrip())
