"""Detectors: how well loops, drift and deadlocks are found, beside the plain rule; `python -m benchmarks.detectors`.

Without an argument, on the made-up corpus. With a DIRECTORY that holds `manifest.jsonl`, `loop_labels.jsonl` and
`traces.tar.gz` or `traces/`, on those recorded runs too.
"""

import argparse
import json
import re
import statistics
import tarfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from crewkeeper_supervisor.chaos.loop_corpus import TONGUES, CorpusRun, corpus, held_out
from crewkeeper_supervisor.core.drift import RAISED_AT, DriftModel, says_something
from crewkeeper_supervisor.core.fingerprint import of_text
from crewkeeper_supervisor.core.meaning import Embed
from crewkeeper_supervisor.core.trace import TraceEvent
from crewkeeper_supervisor.core.trace_analysis import TraceAnalysis, TraceHeader
from crewkeeper_supervisor.shell import embeddings

Alarms = list[tuple[int, int]]
"""Where alarms were raised, with the onsets that they name."""
RULE_TIMES, RULE_WINDOW = 3, 20
SPLICES = 4
STEPS = 3
EACH = 10
"""Made-up runs of each kind."""


def plain_rule(events: Iterable[TraceEvent]) -> Alarms:
    """The same tool with the same arguments three times among the last twenty calls; each such call once."""
    window: deque[tuple[int, str]] = deque(maxlen=RULE_WINDOW)
    told: set[str] = set()
    alarms: Alarms = []
    for event in events:
        if event.kind == "tool_call" or (event.kind == "tool_result" and event.args is not None):
            key = json.dumps([event.sender, event.tool, event.args], sort_keys=True, default=str)
            window.append((event.i, key))
            same = [at for at, one in window if one == key]
            if len(same) >= RULE_TIMES and key not in told:
                told.add(key)
                alarms.append((event.i, same[1]))
    return alarms


def detectors(events: Iterable[TraceEvent]) -> Alarms:
    """Loops, as the production detectors find them; all other detectors run too."""
    analysis = TraceAnalysis("run")
    found = [finding for event in events for finding in analysis.feed(event)]
    return [(finding.at, finding.onset) for finding in found + analysis.finish() if finding.kind == "loop"]


METHODS: tuple[tuple[str, Callable[[Iterable[TraceEvent]], Alarms]], ...] = (
    ("plain rule", plain_rule),
    ("detectors", detectors),
)


class Score:
    """Counts of one method over labelled runs."""

    def __init__(self) -> None:
        self.hit = self.missed = self.wrong = self.alarms = self.steps = 0
        self.types: Counter[str] = Counter()
        self.flagged: Counter[str] = Counter()
        self.after_confirm: list[int] = []
        self.after_onset: list[int] = []
        self.seconds = 0.0

    def add(self, alarms: Alarms, events: list[TraceEvent], label: dict[str, Any]) -> None:
        """One run: `H` has a loop from `ok_from` on; `N` and `Nh` have none; others may have one there."""
        self.steps += len(events)
        ok_from = label.get("ok_from")
        good = [at for at, _ in alarms if ok_from is not None and at >= ok_from]
        early = len(alarms) - len(good)
        self.alarms += early
        kind = label["label"]
        if kind in ("N", "Nh"):
            self.wrong += bool(alarms)
            self.flagged[kind] += bool(alarms)
        elif kind == "H":
            self.wrong += bool(early)
            self.missed += not good
            self.hit += bool(good)
            self.types[label["type"]] += bool(good)
            if good:
                self.after_confirm.append(good[0] - label["confirm"])
                acts = [event for event in events if event.kind in ("tool_call", "message", "tool_result")]
                self.after_onset.append(sum(label["onset"] < event.i <= good[0] for event in acts) // 2)

    def line(self) -> str:
        precision = self.hit / max(1, self.hit + self.wrong)
        recall = self.hit / max(1, self.hit + self.missed)
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        confirm = statistics.median(self.after_confirm or [0])
        onset = statistics.median(self.after_onset or [0])
        return (
            f"precision {precision:.2f}  recall {recall:.2f}  F1 {f1:.2f}  "
            f"false alarms per 1,000 steps {1e3 * self.alarms / max(1, self.steps):.2f}  "
            f"delay after the third time {confirm:g} events, after the onset {onset:g} steps  "
            f"{1e6 * self.seconds / max(1, self.steps):.0f} µs per step"
        )


def timed(method: Callable[[Iterable[TraceEvent]], Alarms], events: list[TraceEvent], score: Score) -> Alarms:
    """Alarms of a method, with its processor time."""
    began = time.process_time()
    alarms = method(events)
    score.seconds += time.process_time() - began
    return alarms


def made_up(title: str, made: Iterable[CorpusRun], each: int) -> None:
    """Measure on made-up runs."""
    runs = [(run, [msgspec.convert(event, TraceEvent) for event in run.events]) for run in made]
    print(f"{title}: {len(runs)} runs, {each} of each kind")
    caught: dict[str, Counter[str]] = {}
    for name, method in METHODS:
        score, flagged = Score(), Counter[str]()
        for run, events in runs:
            label = {"label": "H" if run.loop else "N", "type": run.loop, "onset": run.onset, "confirm": run.confirm}
            alarms = timed(method, events, score)
            score.add(alarms, events, label | {"ok_from": run.ok_from if run.loop else None})
            flagged[run.kind] += any(not run.loop or at >= run.ok_from for at, _ in alarms)
        caught[name] = flagged
        print(f"  {name:10}  {score.line()}")
        of_form = Counter(run.loop for run, _ in runs if run.loop)
        print(f"  {'':10}  {', '.join(f'{form} {score.types[form]}/{count}' for form, count in of_form.items())}")
    print(f"  otherwise than all loops and no healthy run, of {each} each: {', '.join(name for name, _ in METHODS)}")
    for kind, loop in dict.fromkeys((run.kind, run.loop) for run, _ in runs):
        if any(caught[name][kind] != (each if loop else 0) for name, _ in METHODS):
            counts = "  ".join(f"{caught[name][kind]:3}" for name, _ in METHODS)
            print(f"    {kind:20} {loop or 'healthy':8} {counts}")


class Recorded:
    """Runs in a directory."""

    def __init__(self, folder: Path) -> None:
        lines = (folder / "manifest.jsonl").read_bytes().splitlines()
        self.manifest = {one["id"]: one for one in map(json.loads, lines)}
        lines = (folder / "loop_labels.jsonl").read_bytes().splitlines()
        self.labels = {one["id"]: one for one in map(json.loads, lines)}
        self.events: dict[str, list[TraceEvent]] = {}
        wanted = {one["file"]: name for name, one in self.manifest.items()}
        if (folder / "traces").is_dir():
            for file, name in wanted.items():
                self._read(name, (folder / file).read_bytes())
        else:
            with tarfile.open(folder / "traces.tar.gz") as archive:
                for member in archive:
                    if member.name.removeprefix("./") in wanted and (file_ := archive.extractfile(member)):
                        self._read(wanted[member.name.removeprefix("./")], file_.read())

    def _read(self, name: str, content: bytes) -> None:
        decoder = msgspec.json.Decoder(TraceEvent)
        self.events[name] = [decoder.decode(line) for line in content.splitlines() if line.strip()]

    def dining(self, name: str) -> bool:
        return "dp_tail" in self.manifest[name].get("labels", {})


def labelled(runs: Recorded) -> None:
    """Measure loops on labelled runs."""
    kinds = Counter(label["label"] for label in runs.labels.values())
    types = Counter(label["type"] for label in runs.labels.values() if label["label"] == "H")
    print(f"Labelled runs: {dict(kinds)}, loops by type {dict(types)}")
    for name, method in METHODS:
        score = Score()
        for run, label in runs.labels.items():
            score.add(timed(method, runs.events[run], score), runs.events[run], label)
        shown = ", ".join(f"{kind} {score.types[kind]}/{count}" for kind, count in types.items())
        print(f"  {name:10}  {score.line()}")
        print(f"  {'':10}  {shown}; look-alikes flagged {score.flagged['Nh']}/{kinds['Nh']}")


def unlabelled(runs: Recorded) -> None:
    """Count alarms on runs that nobody labelled; some are true."""
    for title, dining in (("Unlabelled runs", False), ("Dining runs", True)):
        names = [name for name in runs.events if name not in runs.labels and runs.dining(name) == dining]
        steps = sum(len(runs.events[name]) for name in names)
        print(f"{title}: {len(names)} runs, {steps} steps")
        for name, method in METHODS:
            score = Score()
            flagged = [run for run in names if timed(method, runs.events[run], score)]
            share = 1e3 * len(flagged) / max(1, steps)
            cost = 1e6 * score.seconds / max(1, steps)
            print(f"  {name:10}  {len(flagged)} flagged, {share:.2f} per 1,000 steps, {cost:.0f} µs per step", end="  ")
            print(" ".join(flagged[:6]))


def deadlocks(runs: Recorded) -> None:
    """Measure deadlocks in tables of resources against the published outcomes."""
    found: Counter[tuple[str, bool]] = Counter()
    ends: dict[str, set[str]] = {"DEADLOCK": set(), "COMPLETED": set()}
    contradicted = []
    for name, events in runs.events.items():
        tail = str(runs.manifest[name].get("labels", {}).get("dp_tail"))
        outcome = re.search(r"Result: (\w+) at timestep (\d+)", tail)
        if outcome is None:
            continue
        analysis = TraceAnalysis(name)
        findings = [finding for event in events for finding in analysis.feed(event)] + analysis.finish()
        # An episode that ends before its time without a single free resource was ended for its deadlock.
        last = next((event.text for event in reversed(events) if event.kind == "tool_result"), "")
        cut = outcome[1] == "COMPLETED" and "[free]" not in last and "EATING" not in last and int(outcome[2]) < 30
        found[("contradicted" if cut else outcome[1], any(one.kind == "deadlock" for one in findings))] += 1
        holders = re.sub(r"\(\d+", "(", last)  # who holds what, whatever was eaten before
        ends[outcome[1]].add(holders)
        if cut:
            contradicted.append(holders)
    right, lost = found["DEADLOCK", True], found["DEADLOCK", False]
    wrong, odd = found["COMPLETED", True], found["contradicted", True]
    both = sum(holders in ends["DEADLOCK"] for holders in contradicted)
    print(f"Deadlocks: {sum(found.values())} episodes: {right} found, {lost} missed, {wrong} wrong")
    print(
        f"  {odd} more labelled COMPLETED although they were cut short with everything held and nobody eating; "
        f"{both} of them end with the very table that ends others labelled DEADLOCK"
    )
    for title, extra in (("as published", odd), ("without those", 0)):
        print(f"  F1 {title}: {2 * right / max(1, 2 * right + lost + wrong + extra):.3f}")


def drift(runs: Recorded, embed: Embed | None = None) -> None:
    """Measure drift where a run goes on with another: its agent says what others said, with or without the answers."""
    names = [name for name in runs.events if not runs.dining(name)]
    spoken = {
        name: [at for at, event in enumerate(runs.events[name]) if event.kind != "tool_result" and len(event.text) > 20]
        for name in names
    }
    manner = "words and meaning" if embed else "words"
    for heard in (False, True):
        for title, same in (("any other task", None), ("another trade", False), ("the same trade", True)):
            chance, healthy, hijacked = Random(7), [], []
            own = {
                name: drift_after(runs, name, runs.events[name][len(runs.events[name]) // 2 :], embed) for name in names
            }
            for name in names:
                others = [other for other in names if is_other(runs, name, other, same) and spoken[other]]
                for other in chance.choices(others, k=SPLICES) if others else ():
                    tail = runs.events[other][spoken[other][len(spoken[other]) // 3] :]
                    tail = [event for event in tail if heard or event.kind != "tool_result"]
                    score = drift_after(runs, name, tail, embed, hijacked=True)
                    if (mine := own[name]) is not None and score is not None:
                        healthy.append(mine)
                        hijacked.append(score)
            raised = [sum(score >= RAISED_AT for score in scores) for scores in (hijacked, healthy)]
            what = "text and its tools' answers" if heard else "text"
            print(
                f"Drift by {manner}, {what} of {title}: {len(hijacked)} splices, AUROC in {STEPS} steps "
                f"{auroc(hijacked, healthy):.3f}; {raised[0]} reach {RAISED_AT}, of those that went on {raised[1]}"
            )
    # Healthy runs, with what they are for and without: nothing should be found.
    for title, known in (("with their objective", True), ("without it", False)):
        raised = [0]
        for name in names:
            header = TraceHeader(objective=runs.manifest[name]["objective"] if known else "")
            analysis = TraceAnalysis(name, header, embed=embed)
            raised[0] += any(one.kind == "drift" for event in runs.events[name] for one in analysis.feed(event))
        print(f"  found in {raised[0]} of {len(names)} runs as they are, {title}")


def is_other(runs: Recorded, name: str, other: str, same: bool | None) -> bool:
    """Whether a run has another task, of the same trade or another if that matters."""
    one, two = runs.manifest[name], runs.manifest[other]
    return one["objective"] != two["objective"] and same in (None, one["framework"] == two["framework"])


def drift_after(
    runs: Recorded, name: str, tail: list[TraceEvent], embed: Embed | None, *, hijacked: bool = False
) -> float | None:
    """Drift of the first agent that has done `STEPS` steps of a tail, after the first half of a run.

    Args:
        runs: All.
        name: Of the run.
        tail: How it goes on.
        embed: Gives vectors, if meaning counts.
        hijacked: Whether whoever acted last says all that the tail says.
    """
    model = DriftModel(runs.manifest[name]["objective"], embed)
    events, last, done = runs.events[name], "the agent", Counter[str]()
    half = len(events) // 2
    for number, event in enumerate([*events[:half], *tail]):
        if event.kind == "tool_result":
            model.heard(of_text(event.text).words, last)
        elif event.sender == "user":
            if number < half or not hijacked:
                model.told(event.text)
        else:
            last = last if hijacked and number >= half else event.sender
            model.did(last, event.text, event.i)
            done[last] += number >= half and says_something(event.text)
            if done[last] == STEPS:
                return model.score(last)
    return None


def auroc(high: list[float], low: list[float]) -> float:
    """Chance that one of `high` is above one of `low`."""
    wins = sum((one > other) + 0.5 * (one == other) for one in high for other in low)
    return wins / max(1, len(high) * len(low))


def main() -> None:
    """Measure all there is."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    arguments.add_argument("directory", nargs="?", type=Path, help="recorded runs")
    arguments.add_argument("--seed", type=int, default=1, help="of the made-up runs")
    arguments.add_argument("--embeddings", type=Path, metavar="DIRECTORY", help="static model; drift by meaning too")
    given = arguments.parse_args()
    for tongue in TONGUES:
        made_up(f"Made up in {tongue}, seed {given.seed}", corpus(given.seed, EACH, tongue), EACH)
        made_up(f"Kinds held out, in {tongue}", held_out(given.seed, EACH, tongue), EACH)
    if given.directory is not None:
        runs = Recorded(given.directory)
        labelled(runs)
        unlabelled(runs)
        deadlocks(runs)
        drift(runs)
        if given.embeddings is not None:
            drift(runs, embeddings.load(given.embeddings))


if __name__ == "__main__":
    main()
