"""Made-up runs with loops, and healthy ones that look alike: what must be caught, and must not be disturbed."""

from collections import Counter

import msgspec
import pytest

from crewkeeper_supervisor.chaos.loop_corpus import HEALTHY, LOOPS, CorpusRun, corpus
from crewkeeper_supervisor.core.trace import TraceEvent
from crewkeeper_supervisor.core.trace_analysis import TraceAnalysis, TraceFinding

SEEDS = (11, 12)
EACH = 8


def findings(run: CorpusRun) -> list[TraceFinding]:
    analysis = TraceAnalysis(run.id)
    found = [one for event in run.events for one in analysis.feed(msgspec.convert(event, TraceEvent))]
    return [one for one in found + analysis.finish() if one.kind == "loop"]


@pytest.fixture(scope="module")
def judged() -> list[tuple[CorpusRun, list[TraceFinding]]]:
    return [(run, findings(run)) for seed in SEEDS for run in corpus(seed, EACH)]


def test_the_corpus_is_what_it_says():
    runs = list(corpus(3, 2))
    assert Counter(run.kind for run in runs) == dict.fromkeys([*LOOPS, *HEALTHY], 2)
    assert runs == list(corpus(3, 2))
    assert runs != list(corpus(4, 2))
    for run in runs:
        assert [event["i"] for event in run.events] == list(range(len(run.events)))
        if run.loop:
            assert 0 <= run.onset < run.ok_from <= run.confirm < len(run.events)
        else:
            assert run.onset == run.ok_from == run.confirm == -1


@pytest.mark.parametrize("kind", LOOPS)
def test_loops_are_caught(judged, kind):
    runs = [(run, found) for run, found in judged if run.kind == kind]
    caught = [run.id for run, found in runs if any(one.at >= run.ok_from for one in found)]
    # A page scraped so badly that its numbers are lost is another page.
    assert len(caught) >= len(runs) - (1 if kind == "noisy_page" else 0)
    early = [(run.id, one) for run, found in runs for one in found if one.at < run.ok_from]
    assert early == []


@pytest.mark.parametrize("kind", HEALTHY)
def test_look_alikes_are_left_alone(judged, kind):
    assert [found[0] for run, found in judged if run.kind == kind and found] == []


def test_loops_are_caught_at_once(judged):
    late = [
        min(one.at for one in found if one.at >= run.ok_from) - run.confirm
        for run, found in judged
        if run.loop and found and run.kind != "dead_poll"  # which is let be until it has cost enough
    ]
    assert sorted(late)[len(late) // 2] <= 0
    assert sum(one > 2 for one in late) <= len(late) * 0.1


def test_a_loop_is_told_once_with_its_onset(judged):
    for run, found in judged:
        if run.kind in ("refused", "paraphrased", "volatile"):
            assert [one.onset for one in found][:1] == [found[0].onset]
            assert len(found) == 1, run.id
            assert found[0].onset >= run.onset
