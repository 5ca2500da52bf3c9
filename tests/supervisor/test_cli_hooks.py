"""`supervisor hooks` on a real server with real receivers: what it shows, sends again, and makes."""

import contextlib
import io
import json
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from urllib.parse import urlsplit

import anyio
import approval_stage
import pytest
from nats_process import linked, until

from crewkeeper_bus.messages import ProcessExited
from crewkeeper_bus.subjects import HOST
from crewkeeper_bus.webhooks import verify
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Response, Responses, Webhook
from crewkeeper_supervisor.shell import journal, webhook
from crewkeeper_supervisor.shell.deliveries import Deliveries
from crewkeeper_supervisor.shell.outbox import Entry, Outbox
from crewkeeper_supervisor.shell.receiver import Receiver
from crewkeeper_supervisor.views.hooks import identified, shown

SECRET = "whsec_b3V0Ym94LWNhbmFyeS1vdXRib3gtY2FuYXJ5"
EVIL = "\x1b[2J\u202e<!channel>\n"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CREWKEEPER_STATE", str(tmp_path))
    monkeypatch.delenv("CREWKEEPER_NATS_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("SECRET", SECRET)


@contextlib.asynccontextmanager
async def working(directory):
    async with linked(directory) as (server, link):
        server.announce()
        outbox = Outbox(link, (0.01,))
        await outbox.open()
        async with anyio.create_task_group() as group:
            group.start_soon(outbox.work)
            yield outbox, Deliveries(link)
            group.cancel_scope.cancel()


async def act(capsys, *arguments):
    capsys.readouterr()
    code = await anyio.to_thread.run_sync(run, list(arguments))
    return code, *capsys.readouterr()


def entry(url, command="5-0"):
    facts = Escalate(id=command, incident="F5-0", kind="opened", body={"kind": "deadlock", "summary": EVIL})
    receiver = Webhook(webhook=url, secret="${SECRET}", allow_private=True)
    body = webhook.body("r1", "trip", facts)
    return Entry(run="r1", command=command, endpoint=0, receiver=receiver, body=body, incident=f"F5-0{EVIL}")


@pytest.mark.live
async def test_what_was_given_up_is_shown_and_sent_again_under_its_id(tmp_path, capsys):
    with Receiver(SECRET, answer=lambda number: 410 if number == 1 else 204) as receiver:
        async with working(tmp_path) as (outbox, records):
            await outbox.enqueue(entry(receiver.url))

            async def ended(state="dead"):
                return [each for each in await records.ls() if each.state == state]

            await until(ended)
            code, out, _ = await act(capsys, "hooks", "deliveries", "-o", "json")
            (row,) = json.loads(out)["items"]
            assert code == 0
            assert (row["name"], row["state"], row["attempts"]) == ("msg_r1_5-0.0", "dead", 1)
            assert row["last"].startswith("410 from 127.0.0.1")
            _, out, _ = await act(capsys, "hooks", "ls", "-o", "json")
            (endpoint,) = json.loads(out)["items"]
            assert (endpoint["state"], endpoint["dead"]) == ("gone", 1)
            assert (endpoint["endpoint"], endpoint["id"]) == (urlsplit(receiver.url).netloc, row["endpoint_id"])
            for shape in ("table", "wide", "yaml", "name", "jsonl"):
                for what in ("ls", "deliveries"):
                    code, out, err = await act(capsys, "hooks", what, "-o", shape)
                    assert code == 0
                    assert (out + err).replace("\n", "").isprintable()
                    assert SECRET not in out + err
            assert (await act(capsys, "hooks", "deliveries", "--waiting"))[2].startswith("nothing was")

            code, _, err = await act(capsys, "hooks", "redeliver", "--failed", "--dry-run")
            assert (code, len(receiver.received)) == (0, 1)
            assert "would send 1 message(s) again" in err
            code, out, _ = await act(capsys, "hooks", "redeliver", "msg_r1_5-0", "--yes", "-o", "name")
            assert (code, out) == (0, "msg_r1_5-0.0\n")
            await until(lambda: ended("delivered"))
            _, out, _ = await act(capsys, "hooks", "ls", "-o", "json")
            assert json.loads(out)["items"][0]["state"] == "ok"
            code, out, _ = await act(capsys, "hooks", "redeliver", "--failed", "--yes", "-o", "name")
            assert (code, out) == (0, "")
            assert (await act(capsys, "hooks", "redeliver", "msg_other", "--yes"))[0] == 5
            assert (await act(capsys, "hooks", "redeliver"))[0] == 2
    assert [each.id for each in receiver.received] == ["msg_r1_5-0"] * 2


@pytest.mark.live
async def test_what_stands_is_acknowledged_once_and_spares_who_comes_later(tmp_path, capsys):
    with Receiver(SECRET) as first, Receiver(SECRET) as second:
        hooks = tuple(
            Webhook(webhook=each.url, secret=SECRET, allow_private=True, after_s=after_s)
            for each, after_s in ((first, 0.0), (second, 3600.0))
        )
        declared = approval_stage.crew(escalate=hooks, responses=Responses(crash=Response(do=("escalate",))))
        async with approval_stage.scene(tmp_path, declared) as made, approval_stage.controlled(made):
            await made.begin()
            await journal.publish_op(made.link, made.run, ProcessExited(agent="boss", pid=2, code=1), sender=HOST)
            await until(lambda: first.received)
            incident, id_ = first.received[0].body["data"]["incident"], first.received[0].id
            assert (await act(capsys, "hooks", "ack", made.run, "F99-9"))[0] == 5
            code, out, _ = await act(capsys, "hooks", "ack", incident, "--dry-run")
            assert (code, out) == (0, f"would acknowledge {incident} of {made.run}\n")
            code, out, _ = await act(capsys, "hooks", "ack", id_, "--reason", "on it", "-o", "json")
            assert (code, json.loads(out)["name"], json.loads(out)["ok"]) == (0, incident, True), out
            code, out, _ = await act(capsys, "hooks", "ack", incident)
            assert (code, "is acknowledged by" in out) == (1, True), "somebody was first"

            async def spared():
                found = await Deliveries(made.link).ls(made.run)
                return {(each.entry.endpoint, each.state) for each in found} == {(0, "delivered"), (1, "needless")}

            await until(spared)
            await until(lambda: len(first.received) == 2)
            _, out, _ = await act(capsys, "hooks", "ls", "-o", "json")
            states = {row["endpoint"]: row["state"] for row in json.loads(out)["items"]}
            urls = (first.url, second.url)
            assert [states[urlsplit(url).netloc] for url in urls] == ["ok", "unused"], "who was spared did not answer"
            code, out, _ = await act(capsys, "why", incident, "--run", made.run)
            assert code == 0
            assert "acknowledges" in out
            assert "acknowledged by" in out
    assert [each.body["type"] for each in first.received] == [
        "crewkeeper.crash.opened",
        "crewkeeper.crash.acknowledged",
    ]
    assert not second.received


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("https://hooks.slack.example/services/T0/B0/hunter2", "hooks.slack.example"),
        ("https://ana:hunter2@ops.example:8443/x?key=hunter2", "ops.example:8443"),
        ("${OPS}", "${OPS}"),
        ("https://ops.example/hunter2/${PART}?k=${KEY}", "ops.example (${PART}${KEY})"),
        ("https://${HOST}/hunter2", "${HOST}"),
        ("https://[::1/hunter2", "(unreadable)"),
        ("https://ops.example:hunter2/", "ops.example"),
    ],
)
def test_no_part_of_an_address_is_shown_that_may_be_secret(address, text):
    assert shown(Webhook(webhook=address)) == text


def test_endpoints_of_one_host_are_told_apart(monkeypatch):
    addresses = ["https://ops.example/a", "https://ops.example/b", "https://ops.example/${ROOM}"]
    ids = [identified(Webhook(webhook=address)) for address in addresses]
    assert len(set(ids)) == 3
    monkeypatch.setenv("ROOM", "other")
    assert [identified(Webhook(webhook=address, format="slack")) for address in addresses] == ids
    assert all(len(id_) == 8 and id_.isalnum() for id_ in ids)


def crew_file(tmp_path, *hooks):
    lines = "".join(
        f"  - {{webhook: '{url}', secret: '${{SECRET}}', allow_private: true, format: {shape}}}\n"
        for url, shape in hooks
    )
    path = tmp_path / "crew.yaml"
    path.write_text(f"crew: trip\nagents: {{a: {{run: 'true', may_call: []}}}}\nescalate:\n{lines}")
    return str(path)


def test_a_test_tells_what_every_receiver_answers(tmp_path, capsys):
    with Receiver(SECRET) as fine, Receiver(SECRET, answer=lambda number: 500) as broken:
        file = crew_file(tmp_path, (fine.url, "standard"), (fine.url, "alertmanager"), (broken.url, "standard"))
        assert run(["hooks", "test", file, "-o", "json"]) == 1
        rows = json.loads(capsys.readouterr().out)["items"]
        assert [(row["ok"], row["text"][:3]) for row in rows] == [(True, "204"), (True, "204"), (False, "500")]
        types = [each.body.get("type") or each.body["status"] for each in fine.received]
        assert types == ["crewkeeper.test.opened", "firing", "resolved"], "no alert is left open by a test"
        assert run(["hooks", "test", crew_file(tmp_path, (fine.url, "standard"))]) == 0
        assert "204 from 127.0.0.1" in capsys.readouterr().out


@pytest.mark.live
async def test_a_test_that_succeeds_brings_back_an_endpoint_that_was_gone(tmp_path, capsys):
    with Receiver(SECRET) as receiver:
        async with working(tmp_path) as (_, records):
            hook = entry(receiver.url).receiver
            await records.mark(hook, gone=True)
            assert (await act(capsys, "hooks", "test", crew_file(tmp_path, (receiver.url, "standard"))))[0] == 0
            assert await records.gone(hook) is None


def test_a_new_secret_is_good_and_comes_with_the_way_to_it(capsys):
    assert run(["hooks", "rotate", "-o", "json"]) == 0
    made = json.loads(capsys.readouterr().out)
    headers = webhook.sign(made["secret"], "m", datetime.now(UTC), b"{}", previous=SECRET)
    assert verify(made["secret"], headers, b"{}") == {}
    assert verify(SECRET, headers, b"{}") == {}
    assert run(["hooks", "rotate"]) == 0
    shown = capsys.readouterr()
    other = shown.out.rstrip("\n")  # alone on stdout, as $(supervisor hooks rotate) wants it
    assert other != made["secret"]
    assert other.startswith("whsec_")
    assert "\n" not in other
    assert "previous_secret" in shown.err
    assert run(["hooks", "rotate", "-o", "name"]) == 0
    assert capsys.readouterr().out.startswith("whsec_")


def test_a_request_is_verified_from_a_shell(monkeypatch, capsys):
    body = b'{"type":"crewkeeper.test.opened"}'
    headers = webhook.sign(SECRET, "m", datetime.now(UTC), body)
    given = [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]

    def verified(payload, *more):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(payload)))
        return run(["hooks", "verify", *given, *more])

    assert verified(body, "--secret-env", "SECRET") == 0
    assert "genuine: crewkeeper.test.opened" in capsys.readouterr().out
    assert verified(body + b" ", "--secret-env", "SECRET") == 1
    assert "no signature fits" in capsys.readouterr().err
    assert verified(body, "--secret-env", "NOT_SET_AT_ALL") == 3
    assert SECRET not in "".join(capsys.readouterr())
