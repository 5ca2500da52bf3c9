"""Advice: what a run has shown of a crew, in sentences that its team can act on."""

from collections.abc import Iterator, Sequence
from typing import Final

from crewkeeper_supervisor.chaos.trial.events import FINDINGS, Sighting
from crewkeeper_supervisor.chaos.trial.verdict import Observed, Struck, beside

DIES_WITHIN_S: Final = 5.0
"""An agent that ends so soon after a call of its failed has not survived that."""
LONG_WAIT_S: Final = 10.0
SENTENCES_MAX: Final = 20
_TOLD_ELSEWHERE: Final = {"crash", "orphan", "restart_intensity"}


def advice(observed: Observed) -> tuple[str, ...]:
    """The sentences, the most important first."""
    found = [*_killed(observed), *_casualties(observed), *_findings(observed), *_waits(observed), *_end(observed)]
    return tuple(dict.fromkeys(found))[:SENTENCES_MAX]


def _events(observed: Observed, event: str, from_s: float = -1e9, **where: object) -> list[Sighting]:
    return [
        each
        for each in observed.seen
        if each.event == event
        and each.at_s >= from_s
        and all(each.fields.get(key) == value for key, value in where.items())
    ]


def _killed(observed: Observed) -> Iterator[str]:
    for fault in observed.struck:
        if not fault.fired:
            if not fault.why and not beside([fault], observed):  # else the verdict says what was in its way
                yield _missed(observed, fault)
        elif fault.do == "kill":
            yield from _of_killed(observed, fault)


def _missed(observed: Observed, fault: Struck) -> str:
    over = [each.at_s for each in _events(observed, "run_ended") if each.at_s <= fault.at_s]
    gone = [each.at_s for each in _events(observed, "exited", agent=fault.target) if each.at_s <= fault.at_s]
    if over:
        return (
            f"Nothing was tried: the crew was over {over[0]:.1f} s after it began, and {fault.do} came at "
            f"{fault.at_s:.1f} s. Let it come sooner (in a crew of your own, --at {over[0] / 4:.1f}), or "
            "let the crew work longer."
        )
    if gone:
        return (
            f"Nothing was tried: {fault.target} had ended {gone[-1]:.1f} s after the crew began, and {fault.do} came "
            f"at {fault.at_s:.1f} s. Let it come sooner (in a crew of your own, with --at), or hit another (--target)."
        )
    return (
        f"{fault.do} hit nothing: {fault.target} had nothing for it {fault.at_s:.1f} s after the crew began. Let "
        "it come at another time (in a crew of your own, with --at), or let the crew work longer."
    )


def _of_killed(observed: Observed, fault: Struck) -> Iterator[str]:
    agent = fault.target
    back = _events(observed, "joined", fault.at_s, agent=agent)
    started = _events(observed, "started", fault.at_s, agent=agent)
    failed = _events(observed, "call_failed", fault.at_s, code="peer_gone")
    callers = sorted({each.fields["agent"] for each in failed if each.at_s <= fault.at_s + LONG_WAIT_S})
    if back:
        yield f"{agent} was killed and was back after {back[0].at_s - fault.at_s:.1f} s."
    elif started:
        yield f"{agent} was killed and started again, and has not joined since: see its log for what its start needs."
    else:
        yield (
            f"{agent} was killed and not started again. If the crew needs it, give it restart.policy permanent or "
            "transient in the crew file, or let its callers ask somebody else."
        )
    if callers:
        yield f"{', '.join(callers)} had a call at {agent} open: it failed with PeerGone at once."
    elif not back and not started:
        yield f"Nobody was waiting for {agent} when it died."


def _casualties(observed: Observed) -> Iterator[str]:
    for failed in _events(observed, "call_failed"):
        agent = failed.fields["agent"]
        for ended in _events(observed, "exited", failed.at_s, agent=agent):
            if ended.fields["code"] not in (0, 3) and ended.at_s - failed.at_s < DIES_WITHIN_S:
                again = " and began anew" if ended.fields["restart"] else ""
                yield (
                    f"{agent} did not survive that its call failed ({failed.fields['code']}): it ended with status "
                    f"{ended.fields['code']}{again}. Catch the error around its `ask`, and ask again or go another way."
                )
    for gave_up in _events(observed, "gave_up"):
        yield (
            f"{gave_up.fields['agent']} crashed too often and was given up; restart.intensity and restart.period in "
            "the crew file say how often it may."
        )
    for agent, words in observed.last_words.items():
        yield f"{agent} failed; the last it said: {words}"


def _findings(observed: Observed) -> Iterator[str]:
    for finding in [each for each in observed.seen if each.event in FINDINGS]:
        if finding.event not in _TOLD_ELSEWHERE and finding.summary:
            resolved = _events(observed, "resolved", finding.at_s, id=finding.fields.get("id"))
            over = f", over after {resolved[0].at_s - finding.at_s:.1f} s" if resolved else ", and not over"
            yield f"Found: {finding.event}{over}: {finding.summary.removeprefix(finding.event + ': ')}"


def _waits(observed: Observed) -> Iterator[str]:
    last_s = max((span.to_s for span in observed.spans), default=0.0)
    for span in observed.spans:
        lasted_s = span.to_s - span.from_s
        if span.what == "wait" and span.to_s >= last_s and lasted_s > LONG_WAIT_S:
            yield (
                f"{span.agent} had been waiting ({span.text}) for {lasted_s:.0f} s when the run was over: give the "
                "wait a timeout if nobody has to answer."
            )


def _end(observed: Observed) -> Sequence[str]:
    ended = _events(observed, "run_ended")
    if not ended:
        return ("The run was still going on when its time was up, and was stopped.",)
    state = ended[-1].fields["state"]
    return () if state == "done" else (f"The run ended as {state}.",)
