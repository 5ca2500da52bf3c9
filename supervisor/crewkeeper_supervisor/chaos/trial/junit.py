"""JUnit: a record as the XML that build servers read: a suite for each scenario, a case for each run."""

from xml.etree.ElementTree import Element, SubElement, tostring

from crewkeeper_supervisor.chaos.trial.record import Record, Result, RunRow
from crewkeeper_supervisor.chaos.trial.verdict import Check


def xml(record: Record) -> bytes:
    """The document."""
    root = Element("testsuites", name="supervisor chaos")
    for result in record.results:
        _suite(root, result)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root)


def _suite(root: Element, result: Result) -> None:
    rows = result.runs
    failed = sum(row.verdict in ("fail", "unhealed") for row in rows)
    vacuous = sum(row.verdict == "vacuous" for row in rows)
    suite = SubElement(
        root,
        "testsuite",
        name=f"{_safe(str(result.scenario.get('id', '')))} [{result.mode}]",
        tests=str(len(rows) or 1),
        failures=str(failed),
        errors=str(vacuous),
        skipped=str(int(not rows)),
        time=f"{sum(row.took_s for row in rows):.3f}",
    )
    if not rows:
        case = SubElement(suite, "testcase", classname="scenario", name="skipped")
        SubElement(case, "skipped", message=_safe(result.skipped))
    for row in rows:
        _case(suite, row)


def _case(suite: Element, row: RunRow) -> None:
    case = SubElement(suite, "testcase", classname="scenario", name=f"seed {row.seed}", time=f"{row.took_s:.3f}")
    if row.verdict == "pass":
        return
    tag = "error" if row.verdict == "vacuous" else "failure"
    made = SubElement(case, tag, type=row.verdict, message=_safe("; ".join(map(line, row.reasons)))[:2000])
    made.text = _safe("\n".join(map(line, row.reasons)))


def line(check: Check) -> str:
    """A check in one line."""
    place = f" (line {check.line})" if check.line else ""
    return f"{check.word}: {check.what}{place}" + (f": {check.detail}" if check.detail else "")


def _safe(text: str) -> str:
    """What XML 1.0 can hold of a text."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
