"""The full page of one incident: what was found, the waits that close the ring, what was done and when."""

from datetime import datetime

from crewkeeper_supervisor.views.snapshot import EdgeRow, IncidentRow
from crewkeeper_supervisor.views.wording import clock, duration, safe


def ring_text(row: IncidentRow) -> str:
    """The ring in one line, `planner → reviewer → planner`; the groups of blamed tasks where it is not one ring."""
    if row.ring:
        return " → ".join(safe(name) for name in row.ring)
    if row.core:
        return "; ".join(" ↔ ".join(safe(task) for task in group) for group in row.core)
    return ", ".join(safe(name) for name in row.agents)


def page(row: IncidentRow, now: datetime) -> list[str]:
    """The page as lines of safe text."""
    lines = [f"{row.kind.replace('_', ' ').upper()} {row.id} in run {safe(row.run)}: {_state(row, now)}", ""]
    lines += [safe(row.summary, None), ""]
    if (row.core or row.ring) and ring_text(row) not in safe(row.summary, None):
        lines += ["Ring", f"  {ring_text(row)}", ""]
    if row.edges:
        lines.append("Waits")
        blamed = [edge for edge in row.edges if edge.deadlocked]
        for edge in blamed:
            lines += _edge_lines(edge, row.at)
        behind = [edge for edge in row.edges if not edge.deadlocked]
        if behind and blamed:
            lines.append("  hanging on these:")
        for edge in behind:
            lines += _edge_lines(edge, row.at)
        lines.append("")
    if row.timed:
        lines += ["A timer would have ended it in the end.", ""]
    if row.suspected:
        lines += ["Suspected, not confirmed: somebody does not answer. Nothing is failed on that.", ""]
    if row.victim is not None:
        lines += ["Victim", f"  {safe(row.victim.task)}, wait {row.victim.epoch}: {safe(row.victim.why, None)}", ""]
    done = ", ".join(row.actions) or "nothing"
    lines += ["Response", f"  {'would do' if row.shadow else 'policy'}: {done}", ""]
    lines.append("Timeline")
    lines += _timeline(row)
    if row.evidence:
        lines += ["", "Evidence"]
        width = max(len(safe(key)) for key in row.evidence)
        lines += [f"  {safe(key).ljust(width)}  {safe(value, None)}" for key, value in row.evidence.items()]
    return lines


def _state(row: IncidentRow, now: datetime) -> str:
    times = f", {row.count} times" if row.count > 1 else ""
    if row.resolved_at is not None:
        return f"resolved after {duration((row.resolved_at - row.at).total_seconds())}{times}"
    return f"{row.state} for {duration((now - row.at).total_seconds())}{times}"


def _edge_lines(edge: EdgeRow, found_at: datetime) -> list[str]:
    age = duration((found_at - edge.since).total_seconds())
    what = f"{edge.kind.replace('_', ' ')} {safe(edge.message)}".strip()
    return [
        f"  {safe(edge.text, None)}",
        f"    {what}, task {safe(edge.task)}, wait {edge.epoch}, {age} old when found",
    ]


def _timeline(row: IncidentRow) -> list[str]:
    moments = [(step.at, step.seq, step.text) for step in row.steps] or [(row.at, row.seq, "found")]
    return [
        f"  {clock(at)}  +{duration((at - row.at).total_seconds())}  #{seq}  {safe(text, None)}"
        for at, seq, text in moments
    ]
