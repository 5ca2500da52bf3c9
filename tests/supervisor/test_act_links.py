"""Links to act upon incidents, with a real server and controller: each does one thing, once, and says truthfully so."""

import contextlib
import re
import time

import anyio
import httpx2
import msgspec
import pytest
from approval_stage import RUN, Scene, controlled, crew, scene
from nats_process import until
from test_approval_links import EVIL, SECRET, Tags

from crewkeeper_bus import messages as m
from crewkeeper_bus.subjects import HOST, Kind
from crewkeeper_bus.tool_messages import BudgetChanged, ToolCall
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Budget, Response, Responses, Webhook
from crewkeeper_supervisor.shell import act_desk, journal
from crewkeeper_supervisor.shell.approval_desk import Desk
from crewkeeper_supervisor.shell.approval_guard import Guard
from crewkeeper_supervisor.shell.approval_links import Grant, approval_keys, token
from crewkeeper_supervisor.shell.approval_notice import completed
from crewkeeper_supervisor.shell.approval_site import Site
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.receiver import Receiver

pytestmark = pytest.mark.live
URL = "http://127.0.0.1:8790"
TOLD = Responses(crash=Response(do=("escalate",)), unknown_tool=Response(do=("escalate",)))


@contextlib.asynccontextmanager
async def acting(tmp_path, **fields):
    """A run in which the boss has crashed, with a controller and two servers of links; yields it and their clients."""
    with Receiver(SECRET) as receiver:
        hooks = (Webhook(webhook=receiver.url, secret=SECRET, allow_private=True),)
        fields = {
            "escalate": hooks,
            "responses": TOLD,
            "approval_url": URL,
            "budget": Budget(microusd=2_000_000),
        } | fields
        async with scene(tmp_path, crew(**fields)) as made, controlled(made):
            await made.begin()
            await journal.publish_op(made.link, RUN, m.ProcessExited(agent="boss", pid=2, code=1), sender=HOST)
            await until(lambda: receiver.received)
            async with connect(made.server.place, name="second") as other:
                clients = [
                    httpx2.AsyncClient(transport=transport(link, tmp_path), base_url=URL) for link in (made.link, other)
                ]
                yield made, receiver, clients


def transport(link, state):
    return httpx2.ASGITransport(app=Guard(Site(link, approval_keys(state)).app(), [URL]))


async def incident_of(made: Scene):
    await made.desk.catch_up()
    return next(iter(made.desk.core.incidents.values()))


async def asked(made: Scene) -> list[tuple[str, str, str, str]]:
    """What people have asked for, as the journal has it."""
    return [(each.action, each.agent, each.incident, each.by) for each in await made.heard(m.OperatorAsked)]


async def path_of(made, act, /, **changes):
    """The path of a link to act upon the crash."""
    incident = await incident_of(made)
    fields = {"run": RUN, "about": incident.id, "act": act, "digest": "1-0", "expires_s": int(time.time()) + 100}
    return f"/a/{token(approval_keys(made.server.directory), Grant(**fields | changes))}"


async def test_a_message_carries_links_that_do_nothing_until_the_form_is_sent(tmp_path):
    async with acting(tmp_path) as (made, receiver, (http, _)):
        data = receiver.received[0].body["data"]
        assert list(data["links"]) == ["acknowledge"], "who has crashed can neither go on nor be killed"
        assert f"supervisor hooks ack {RUN} {data['incident']}" in data["act"]
        link = data["links"]["acknowledge"]
        for _ in range(3):
            page = await http.get(link)
            assert page.status_code == 200
            assert (await http.head(link)).status_code == 200
        for part in ("Acknowledge", "boss crashed", data["incident"], "It costs"):
            assert part in page.text
        assert await asked(made) == []

        done = await http.post(link, data={"by": "Kim", "reason": "on it"}, headers={"origin": URL})
        assert (done.status_code, "Acknowledged" in done.text) == (200, True), done.text
        assert await asked(made) == [("acknowledge", "", data["incident"], "Kim (link)")]
        assert (await incident_of(made)).state == "open"
        for again in (await http.post(link), await http.get(link)):
            assert (again.status_code, "was used before" in again.text) == (409, True)
        await until(lambda: len(receiver.received) == 2)
        known = receiver.received[1].body
        assert known["type"] == "crewkeeper.crash.acknowledged"
        assert (known["data"]["by"], known["data"]["why"]) == ("Kim (link)", "on it")


async def test_each_act_is_done_once_however_often_and_wherever_it_is_asked_for(tmp_path):
    async with acting(tmp_path) as (made, _, (http, other)):
        kill = await path_of(made, "kill", agent="payer")
        answers = []

        async def press(client):
            answers.append(await client.post(kill, data={"by": "Kim", "reason": "it loops"}))

        async with anyio.create_task_group() as group:
            for client in (http, other, http, other):
                group.start_soon(press, client)
        assert {each.status_code for each in answers} <= {200, 409}
        assert [each for each in await asked(made) if each[0] == "kill"] == [
            ("kill", "payer", (await incident_of(made)).id, "Kim (link)")
        ]
        extend = await path_of(made, "extend", what="microusd", add=500_000)
        done = await http.post(extend, data={"reason": "the fair is on"})
        assert (done.status_code, "the limit is $2.50 now" in done.text) == (200, True), done.text
        assert (await other.post(extend)).status_code == 409
        assert [(each.add, each.by, each.why) for each in await made.heard(BudgetChanged)] == [
            (500_000, "somebody (link)", "the fair is on")
        ]
        resume = await path_of(made, "resume", agent="boss")
        assert (await http.post(resume)).status_code == 200
        assert (await asked(made))[-1][:2] == ("resume", "boss")
        notes = [step.text for step in (await incident_of(made)).steps]
        assert "Kim (link) asked to kill payer: it loops" in notes


async def test_the_journal_takes_an_act_once_though_nobody_has_looked(tmp_path):
    """Two who have both seen that it can be done, or one that was killed before it could answer and is asked again."""
    async with acting(tmp_path) as (made, _, _clients):
        incident = await incident_of(made)
        grant = Grant(run=RUN, about=incident.id, act="kill", expires_s=0, digest="1-0", agent="payer")
        desks = [Desk(made.link, RUN) for _ in range(3)]
        for desk in desks:
            await desk.catch_up()
        for desk in desks:
            taken = await act_desk.carry_out(made.link, desk.core, grant, by="kim", limit_s=60)
            assert (taken.outcome, taken.acted) == ("decided", True)
        assert len(await asked(made)) == 1


async def test_a_link_is_for_what_it_was_made_for_and_for_its_time(tmp_path):
    async with acting(tmp_path) as (made, _, (http, _)):
        good = await path_of(made, "kill", agent="payer")
        swapped = good.replace(good.partition(".")[2], (await path_of(made, "kill", agent="boss")).partition(".")[2])
        stale = await path_of(made, "kill", agent="payer", expires_s=int(time.time()) - 1)
        for path in (swapped, stale, good[:-2]):
            assert [(await http.request(how, path)).status_code for how in ("GET", "POST")] == [403, 403]
        assert (await http.post(await path_of(made, "kill", about="F99-9", agent="payer"))).status_code == 409
        assert (await http.post(await path_of(made, "kill", run="gone-1", agent="payer"))).status_code == 404
        assert (await http.post(await path_of(made, "kill", agent="nobody"))).status_code == 409
        assert await asked(made) == []
        await journal.publish_op(made.link, RUN, m.RunEnded(state="stopped"), sender=HOST)
        await until(lambda: is_over(made))  # before that the link would act
        late = await http.post(good)
        assert (late.status_code, "the run is over" in late.text) == (409, True), late.text
        assert await asked(made) == []


async def is_over(made: Scene) -> bool:
    await made.desk.catch_up()
    return made.desk.core.state == "stopped"


async def test_hostile_names_are_text_on_the_page_in_the_terminal_and_in_the_log(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path))
    async with acting(tmp_path) as (made, receiver, (http, _)):
        await made.say("payer", Kind.TOOL, ToolCall, id_="c1", task="t", tool=EVIL[:60], args=msgspec.Raw(b"{}"))
        await until(lambda: len(receiver.received) == 2)
        message = receiver.received[1].body["data"]
        page = await http.get(message["links"]["acknowledge"])
        words = "html head meta title style body main h1 dl dt dd p form label input button"
        assert set(Tags(page.text).tags) == set(words.split())
        assert "img src" in page.text, "it is shown, as text"
        assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", page.text)
        assert "http" not in page.text
        done = await http.post(message["links"]["acknowledge"], data={"by": EVIL, "reason": EVIL})
        assert set(Tags(done.text).tags) <= {"html", "head", "meta", "title", "style", "body", "main", "h1", "p"}
        await until(lambda: len(receiver.received) == 3)
        told = receiver.received[2].body["data"]
        assert all(char.isprintable() or char == "\n" for char in told["by"] + told["why"] + told["summary"])
        incident = message["incident"]
        for words in (
            ("incidents", "show", incident),
            ("why", incident, "--run", RUN),
            ("events", RUN),
            ("hooks", "deliveries", RUN),
            ("hooks", "ack", incident),
        ):
            await made.act(*words)
            out, err = capfd.readouterr()
            assert out.strip(), words
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err), words


async def test_another_system_acknowledges_with_the_token_alone(tmp_path):
    async with acting(tmp_path) as (made, _, (http, other)):
        incident = await incident_of(made)
        path = f"/v1/incidents/{RUN}.{incident.id}"
        bearer = {"authorization": f"Bearer {approval_keys(tmp_path).callback}"}
        wish = {"by": "pager 7", "reason": "paged"}
        assert (await http.get(path)).status_code == 401
        assert (await http.post(f"{path}/acknowledge", json=wish)).status_code == 401
        assert (await http.get(path, headers=bearer)).json()["acknowledged_by"] == ""
        for bad, status in ((wish | {"extra": 1}, 400), ([], 400), ({}, 400)):
            assert (await http.post(f"{path}/acknowledge", json=bad, headers=bearer)).status_code == status
        assert (await http.post(f"{path}9/acknowledge", json=wish, headers=bearer)).status_code == 404
        done = await http.post(f"{path}/acknowledge", json=wish, headers=bearer)
        assert (done.status_code, done.json()["outcome"]) == (200, "decided"), done.text
        assert done.json()["acknowledged_by"] == "pager 7 (callback)"
        again = await other.post(f"{path}/acknowledge", json=wish | {"by": "else"}, headers=bearer)
        assert (again.status_code, again.json()["acknowledged_by"]) == (409, "pager 7 (callback)")
        assert len(await asked(made)) == 1


def test_the_same_act_is_one_entry_whatever_the_time_and_another_is_another():
    grant = Grant(run="r", about="F1-0", act="kill", expires_s=5, digest="1-0", agent="a")
    assert grant.once == Grant(run="r", about="F1-0", act="kill", expires_s=9, digest="1-0", agent="a").once
    others = [
        {"run": "s"},
        {"about": "F2-0"},
        {"act": "resume"},
        {"digest": "2-0"},
        {"agent": "b"},
        {"what": "tokens"},
        {"add": 1},
    ]
    fields = {"run": "r", "about": "F1-0", "act": "kill", "expires_s": 5, "digest": "1-0", "agent": "a"}
    assert len({Grant(**fields | other).once for other in others} | {grant.once}) == len(others) + 1
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,32}", grant.once)


def test_links_are_made_for_what_the_crew_file_allows_alone(tmp_path):
    can = [{"do": "acknowledge"}, {"do": "kill", "agent": "payer"}]
    told = Escalate(id="1-0", incident="F1-0", kind="opened", body={"kind": "crash", "can": can})
    shown = crew(approval_url=URL)
    assert list(completed(tmp_path, RUN, shown, told, told.body)["links"]) == ["acknowledge", "kill payer"]
    some = crew(approval_url=URL, act_links=("acknowledge",))
    assert list(completed(tmp_path, RUN, some, told, told.body)["links"]) == ["acknowledge"]
    for none in (crew(approval_url=URL, act_links=()), crew()):
        assert "links" not in completed(tmp_path, RUN, none, told, told.body)
