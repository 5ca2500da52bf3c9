"""Digests as a real receiver gets them: one incident or alert each, closed when all that it names is over."""

import anyio
import msgspec
import pytest
from nats_process import linked, until

from crewkeeper_supervisor.core.crew import Response, Webhook
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.effects import Effects
from crewkeeper_supervisor.shell.outbox import Outbox
from crewkeeper_supervisor.shell.receiver import Receiver
from support.journal import RUN
from support.ladder_room import LadderRoom, crew_with

pytestmark = pytest.mark.live
SECRET = "whsec_ZGlnZXN0LWNhbmFyeS1kaWdlc3QtY2FuYXJ5"


def told_by(receiver):
    """Each message once, in order: one may come twice."""
    return list({each.id: each.body for each in receiver.received}.values())


async def test_what_a_digest_opened_is_closed_at_pagerduty_and_alertmanager(tmp_path):
    with Receiver(SECRET) as pagerduty, Receiver(SECRET) as alertmanager:
        there = {"secret": SECRET, "allow_private": True}
        receivers = (
            Webhook(webhook=pagerduty.url, format="pagerduty", routing_key="k", **there),
            Webhook(webhook=alertmanager.url, format="alertmanager", **there),
        )
        tell = Response(do=("escalate",), climb_s=1.0, cool_down_s=0.0)
        crew = msgspec.structs.replace(crew_with(escalations=1, loop=tell), escalate=receivers)
        room = LadderRoom(crew)
        for number in range(3):
            room.hear(f"found loop k{number} search")
        room.tick(60)
        for number in range(3):
            room.hear(f"cleared loop k{number}")
        async with linked(tmp_path) as (_, link):
            await journal.create_run(link, RUN, crew, "here")
            box = Outbox(link)
            await box.open()
            effects = Effects(link, RUN, 1, box, None, lambda command, crew: None, lambda command: None)
            for command in room.escalated():
                await effects.carry_out(command, crew)
            async with anyio.create_task_group() as group:
                group.start_soon(box.work)
                await until(lambda: all(len(told_by(each)) == 4 for each in (pagerduty, alertmanager)))
                group.cancel_scope.cancel()
    open_ = set()
    for body in told_by(pagerduty):
        (open_.add if body["event_action"] == "trigger" else open_.discard)(body["dedup_key"])
    assert open_ == set(), "nothing is left that somebody must close by hand"
    alerts = [alert for body in told_by(alertmanager) for alert in body["alerts"]]
    firing, resolved = ([alert for alert in alerts if alert["status"] == each] for each in ("firing", "resolved"))
    assert len({alert["fingerprint"] for alert in alerts}) == len(firing) == 2
    for same in ("fingerprint", "startsAt", "labels"):
        assert sorted(str(alert[same]) for alert in firing) == sorted(str(alert[same]) for alert in resolved)
