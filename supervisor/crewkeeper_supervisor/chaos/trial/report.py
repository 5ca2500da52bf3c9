"""Report: a record as one page of HTML that needs nothing else: no script, no network, every name escaped."""

from html import escape
from typing import Final

from crewkeeper_supervisor.chaos.trial import drawing
from crewkeeper_supervisor.chaos.trial.record import Record, Result, Told
from crewkeeper_supervisor.chaos.trial.told import WORDS, summary
from crewkeeper_supervisor.chaos.trial.verdict import Check

FINDINGS_MAX: Final = 12
"""Most wait graphs of one run."""
SEEN_MAX: Final = 400
_QUIET: Final = {"waiting", "probe", "began", "joined", "started"}
"""Sightings that every run has by the dozen: in the lanes, and left out of the list."""
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fff; --faint: #6b7686; --line: #d8dee6; --panel: #f5f7fa;
  --pass: #1a7f4b; --fail: #c0262d; --vacuous: #9a6700; --wait: #d9822b; --up: #cfd8e3; --held: #7a5cc4;
  --shade: #c0262d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --paper: #14181f; --faint: #98a3b3; --line: #2c3442;
  --panel: #1b212b; --pass: #4cc38a; --fail: #ff6b6b; --vacuous: #e2b93b; --wait: #f0a04b; --up: #3a4556;
  --held: #a48be8;
  --shade: #ff6b6b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.word { font-weight: 700; } .pass { color: var(--pass); } .fail, .unhealed { color: var(--fail); }
.vacuous, .skipped { color: var(--vacuous); }
.faint { color: var(--faint); } .story { max-width: 46rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25rem .6rem; vertical-align: top;
  border-bottom: 1px solid var(--line); font-size: .92rem; overflow-wrap: anywhere; }
.figure { overflow-x: auto; background: var(--panel); border-radius: 6px; padding: .5rem; }
.graphs { display: flex; flex-wrap: wrap; gap: 1rem; } .graphs > div { background: var(--panel); border-radius: 6px;
  padding: .7rem; max-width: 26rem; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
"""


def html(record: Record) -> str:
    """The page."""
    word = record.word
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        "<meta name=viewport content='width=device-width'><title>Chaos report</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>Chaos report: <span class='word {word}'>{WORDS[word]}</span></h1>",
        f"<p>{escape(summary(record))}</p>",
        f"<p class=faint>{escape(_origin(record))}</p>",
        _contents(record),
    ]
    parts += [_result(result, number) for number, result in enumerate(record.results)]
    return "\n".join(parts) + "\n"


def _origin(record: Record) -> str:
    parts = [f"Crewkeeper {record.version}".removesuffix(" -"), record.started_at]  # "-": run where it was written
    if record.mutation:
        parts.append(f"with the mutation {record.mutation} in the product")
    if record.crew:
        parts.append(f"on the crew {record.crew}")
    return ", ".join(part for part in parts if part)


def _contents(record: Record) -> str:
    rows = [
        f"<tr><td class='word {result.verdict}'>{WORDS[result.verdict]}</td>"
        f"<td><a href='#r{number}'>{escape(str(result.scenario['id']))}</a></td><td>{escape(result.mode)}</td>"
        f"<td>{escape(' '.join(result.scenario['guarantees']))}</td>"
        f"<td>{escape(str(result.scenario['title']))}</td></tr>"
        for number, result in enumerate(record.results)
    ]
    head = "<tr><th>verdict<th>scenario<th>mode<th>proves<th>what happens</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _result(result: Result, number: int) -> str:
    scenario = result.scenario
    parts = [
        (
            f"<h2 id=r{number}><span class='word {result.verdict}'>{WORDS[result.verdict]}</span> "
            f"{escape(str(scenario['id']))} <span class=faint>[{escape(result.mode)}]</span></h2>"
        ),
        f"<p>{escape(str(scenario['title']))}</p>",
        f"<p class='story faint'>{escape(str(scenario.get('story', '')))}</p>",
    ]
    if result.skipped:
        parts.append(f"<p>Not judged: {escape(result.skipped)}</p>")
    if result.told is not None:
        parts.append(_told(result, result.told))
    return "\n".join(parts)


def _told(result: Result, told: Told) -> str:
    passed = sum(row.verdict == "pass" for row in result.runs)
    shown = f"{passed} of {len(result.runs)} runs passed; shown is seed {told.seed}."
    if told.kept is not None:
        shown += f" Shrunk: it fails with {', '.join(told.kept) or 'no fault at all'}."
    parts = [
        f"<p>{escape(shown)}</p>",
        _checks(told.checks),
        _advice(told.advice),
        "<h3>What happened</h3>",
        f"<div class=figure>{drawing.lanes(told.observed)}</div>",
        (
            "<p class=faint>Bars: <b>wide</b> the process runs, <b>orange</b> it waits, <b>purple</b> it is held. Red: "
            "a fault is at work on this agent, or on all. Marks on top: findings.</p>"
        ),
    ]
    graphs = [each for each in told.observed.seen if each.edges][:FINDINGS_MAX]
    if graphs:
        figures = "".join(
            f"<div><b>{escape(each.event)}</b> at {each.at_s:.3f} s<br><span class=faint>{escape(each.summary)}</span>"
            f"{drawing.graph(each)}</div>"
            for each in graphs
        )
        parts.append(f"<h3>Who waited for whom</h3><div class=graphs>{figures}</div>")
    parts.append(_list(told))
    return "\n".join(parts)


def _checks(checks: tuple[Check, ...]) -> str:
    rows = [
        f"<tr><td class='word {check.word}'>{WORDS[check.word]}</td><td>{escape(check.what)}</td>"
        f"<td>{escape(check.detail)}</td><td class=faint>{f'line {check.line}' if check.line else ''}</td></tr>"
        for check in checks
    ]
    return f"<table>{''.join(rows)}</table>"


def _advice(sentences: tuple[str, ...]) -> str:
    rows = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<h3>What to know of this crew</h3><ul>{rows}</ul>" if rows else ""


def _list(told: Told) -> str:
    seen = [each for each in told.observed.seen if each.event not in _QUIET]
    rows = [
        f"<tr><td>{each.at_s:.3f}</td><td>{escape(each.event)}</td>"
        f"<td>{escape(', '.join(f'{key} {value}' for key, value in each.fields.items()))}</td></tr>"
        for each in seen[:SEEN_MAX]
    ]
    more = f"<p class=faint>and {len(seen) - SEEN_MAX} more in the journal</p>" if len(seen) > SEEN_MAX else ""
    return f"<details><summary>Everything seen ({len(seen)})</summary><table>{''.join(rows)}</table>{more}</details>"
