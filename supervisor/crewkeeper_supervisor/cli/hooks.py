"""`supervisor hooks`: the webhooks that people are told by: what became of each, trying and repeating them."""

import base64
import os
import secrets
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from crewkeeper_supervisor.cli.consent import confirm, dry_run_option, yes_option
from crewkeeper_supervisor.cli.failure import FAILED, INVALID, NOT_FOUND, USAGE, Failure
from crewkeeper_supervisor.cli.incident_acts import ack
from crewkeeper_supervisor.cli.output import emit_document, emit_rows, emit_secret, output_option, say
from crewkeeper_supervisor.cli.place_options import opened, place_options
from crewkeeper_supervisor.cli.watching import watch_option

if TYPE_CHECKING:
    from crewkeeper_supervisor.core.crew import Webhook
    from crewkeeper_supervisor.shell.deliveries import Delivery
    from crewkeeper_supervisor.views.hooks import TestRow

SECRET_BYTES = 32
BODY_MAX_BYTES = 1024 * 1024


@click.group()
def hooks() -> None:
    """List, test, repeat and change the webhooks that people are told by."""


hooks.add_command(ack)


@hooks.command()
@watch_option
@output_option()
@place_options
def ls(output: str, state: Path | None, nats: str | None) -> None:
    """List endpoints that anything was for in the last thirty days, and whether they answer."""
    anyio.run(_ls, output, state, nats)


async def _ls(output: str, state: Path | None, nats: str | None) -> None:
    from crewkeeper_supervisor.shell.deliveries import Deliveries, endpoint_key
    from crewkeeper_supervisor.views.hooks import endpoint_rows, endpoints_table

    async with opened(state, nats, stored=True) as link:
        records = Deliveries(link)
        await records.open()
        found = await records.ls()
        receivers = {endpoint_key(each.entry.receiver): each.entry.receiver for each in found}
        gone = frozenset([key for key, receiver in receivers.items() if await records.gone(receiver)])
    rows, now = endpoint_rows(found, gone), datetime.now(UTC)
    emit_rows(rows, output, table=lambda wide: endpoints_table(rows, now, wide=wide), name=lambda row: str(row.id))


@hooks.command()
@click.argument("run", required=False)
@click.option("--failed", is_flag=True, help="Only those that were given up.")
@click.option("--waiting", is_flag=True, help="Only those that are still tried.")
@watch_option
@output_option()
@place_options
def deliveries(run: str | None, failed: bool, waiting: bool, output: str, state: Path | None, nats: str | None) -> None:
    """List what was sent to whom, of a run or of all, and what came of it."""
    anyio.run(_deliveries, run, _states(failed, waiting), output, state, nats)


def _states(failed: bool, waiting: bool) -> frozenset[str]:
    named = frozenset(word for word, wanted in (("dead", failed), ("waiting", waiting)) if wanted)
    return named or frozenset(("waiting", "delivered", "dead", "needless"))


async def _deliveries(
    run: str | None, states: frozenset[str], output: str, state: Path | None, nats: str | None
) -> None:
    from crewkeeper_supervisor.views.hooks import deliveries_table, delivery_rows

    found = [each for each in await _found(run, state, nats) if each.state in states]
    rows, now = delivery_rows(found), datetime.now(UTC)
    emit_rows(rows, output, table=lambda wide: deliveries_table(rows, now, wide=wide), name=lambda row: str(row.name))


async def _found(run: str | None, state: Path | None, nats: str | None) -> "list[Delivery]":
    from crewkeeper_supervisor.cli.runs import find_run
    from crewkeeper_supervisor.shell.deliveries import Deliveries

    async with opened(state, nats, stored=True) as link:
        records = Deliveries(link)
        await records.open()
        return await records.ls((await find_run(link, run)).run if run else "*")


@hooks.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--failed", is_flag=True, help="All that were given up.")
@click.option("--since", type=click.FloatRange(min=0), metavar="HOURS", help="With --failed: only of the last HOURS.")
@yes_option
@dry_run_option
@output_option()
@place_options
def redeliver(
    ids: tuple[str, ...],
    failed: bool,
    since: float | None,
    yes: bool,
    dry_run: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> None:
    """Send messages again, each under its old id, also to endpoints that said they are gone.

    ID is as `supervisor hooks deliveries` lists it, or the webhook-id: then to every receiver. A controller that runs
    on this server sends them; what is waiting already is left alone.
    """
    if bool(ids) == failed:
        raise Failure("name what to send again, or say --failed", code=USAGE, remedy="supervisor hooks deliveries")
    since_s = 0.0 if since is None else time.time() - since * 3600
    anyio.run(_redeliver, ids, since_s, yes, dry_run, output, state, nats)


async def _redeliver(
    ids: tuple[str, ...],
    since_s: float,
    yes: bool,
    dry_run: bool,
    output: str,
    state: Path | None,
    nats: str | None,
) -> None:
    from crewkeeper_supervisor.shell.deliveries import Deliveries
    from crewkeeper_supervisor.views.hooks import deliveries_table, delivery_rows

    async with opened(state, nats) as link:
        records = Deliveries(link)
        await records.open()
        chosen = _chosen(await records.ls(), ids, since_s)
        rows, now = delivery_rows(chosen), datetime.now(UTC)
        if chosen and not dry_run:
            confirm(f"send {len(chosen)} message(s) again?", yes)
            sent = sum([await records.again(each) for each in chosen])
            if sent < len(chosen):
                say(f"{len(chosen) - sent} of them wait already and are left alone")
    if dry_run:
        say(f"would send {len(rows)} message(s) again")
    emit_rows(rows, output, table=lambda wide: deliveries_table(rows, now, wide=wide), name=lambda row: str(row.name))


def _chosen(found: "list[Delivery]", ids: tuple[str, ...], since_s: float) -> "list[Delivery]":
    from crewkeeper_supervisor.views.hooks import name

    if not ids:
        last_s = [(each, each.tries[-1].at_s if each.tries else each.began_s) for each in found if each.state == "dead"]
        return [each for each, at_s in last_s if at_s >= since_s]
    chosen: list[Delivery] = []
    for id_ in dict.fromkeys(ids):
        fitting = [each for each in found if id_ in (name(each), each.entry.message_id)]
        if not fitting:
            said = f"{id_[:120]!r} is nothing that was sent in the last thirty days"
            raise Failure(said, code=NOT_FOUND, remedy="supervisor hooks deliveries")
        chosen += [each for each in fitting if each not in chosen]
    return chosen


@hooks.command(name="test")
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@output_option()
@place_options
@click.pass_context
def test_(ctx: click.Context, file: Path, output: str, state: Path | None, nats: str | None) -> None:
    """Send a test message to every receiver of a crew file, and say what each answers.

    Addresses and secrets come from the environment of this command. Exit status: 1 if one did not take it. An endpoint
    that said it is gone and takes the message is called again from then on.
    """
    ctx.exit(anyio.run(_test, file, output, state, nats))


async def _test(file: Path, output: str, state: Path | None, nats: str | None) -> int:
    from crewkeeper_supervisor.shell.crewfile import load
    from crewkeeper_supervisor.views.hooks import tests_table

    crew = load(file)
    rows = await _tested(crew.name, crew.escalate)
    taken = [receiver for receiver, row in zip(crew.escalate, rows, strict=True) if row.ok]
    await _call_again(taken, state, nats)
    emit_rows(rows, output, table=lambda wide: tests_table(rows, wide=wide), name=lambda row: str(row.id))
    return 0 if rows and all(row.ok for row in rows) else FAILED


async def _tested(crew: str, receivers: "tuple[Webhook, ...]") -> "list[TestRow]":
    import msgspec

    from crewkeeper_supervisor.core.commands import Escalate
    from crewkeeper_supervisor.shell import webhook
    from crewkeeper_supervisor.views.hooks import TestRow, identified, shown

    id_ = f"test-{secrets.token_hex(6)}"
    summary = "a test by `supervisor hooks test`: nothing happened, and nothing is to be done"
    command = Escalate(id=id_, incident=id_, kind="opened", body={"kind": "test", "summary": summary})
    body = webhook.body("test", crew, command)
    over = webhook.body("test", crew, msgspec.structs.replace(command, kind="resolved"))
    rows: list[TestRow] = []
    async with webhook.client() as http:
        for receiver in receivers:
            attempt = await webhook.deliver(http, receiver, f"msg_{id_}", body)
            if attempt.ok and receiver.format in ("pagerduty", "alertmanager"):
                # There a test is an alert, which somebody would have to close.
                attempt = await webhook.deliver(http, receiver, f"msg_{id_}-over", over)
            about = {"id": identified(receiver), "endpoint": shown(receiver), "format": receiver.format}
            rows.append(TestRow(**about, ok=attempt.ok, text=attempt.text))
    return rows


async def _call_again(taken: "list[Webhook]", state: Path | None, nats: str | None) -> None:
    """Note that endpoints are there, if there is a server to note it on, and they were said to be gone."""
    from crewkeeper_supervisor.shell.deliveries import Deliveries
    from crewkeeper_supervisor.shell.errors import NothingRuns

    if not taken:
        return
    try:
        async with opened(state, nats) as link:
            records = Deliveries(link)
            await records.open()
            for receiver in taken:
                if await records.gone(receiver):
                    await records.mark(receiver, gone=False)
    except NothingRuns:
        return  # a test needs no crew


@hooks.command()
@output_option("text", "json", "jsonl", "yaml", default="text")
def rotate(output: str) -> None:
    """Make a secret, a first one or a new one.

    It stands alone on stdout, and on stderr in which order it takes the place of
    an old one. Nothing is changed by this.
    """
    import msgspec

    class Secret(msgspec.Struct):
        secret: str
        steps: list[str]

    made = Secret(secret="whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode(), steps=list(_STEPS))
    if output == "name":
        output = "table"  # nothing but the secret in both
    emit_secret(made, output, lambda: [made.secret])
    if output in ("table", "wide"):
        say("to put it in the place of an old one:")
        for number, step in enumerate(_STEPS, 1):
            say(f"  {number}. {step}")


_STEPS = (
    'in the crew file, write the old one as `previous_secret: "${NAME_OLD}"`, beside `secret: "${NAME}"`',
    "set NAME_OLD to the old secret and NAME to this one, and start anew what runs controllers: they sign with both",
    "give receivers this one; until then the old one fits",
    "check with `supervisor hooks test crew.yaml`",
    "take `previous_secret` out again, and restart",
)


@hooks.command()
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the request; repeat it.")
@click.option("--secret-env", default="OPS_WEBHOOK_SECRET", show_default=True, metavar="NAME", help="Holds the secret.")
@click.option("--tolerance", type=click.FloatRange(min=0), default=300.0, show_default=True, metavar="SECONDS")
@output_option("text", "json", "yaml", default="text")
def verify(headers: tuple[str, ...], secret_env: str, tolerance: float, output: str) -> None:
    """Say whether a request that came in is genuine; its body is read from stdin, byte for byte.

    Exit status: 0 it is, 1 it is not. In a program: `from crewkeeper_bus.webhooks import verify`.
    """
    from crewkeeper_bus import webhooks
    from crewkeeper_supervisor.views.wording import safe

    secret = os.environ.get(secret_env, "")
    if not secret:
        raise Failure(
            f"the environment variable {secret_env} is not set", code=INVALID, remedy=f"export {secret_env}=…"
        )
    rows = {key.strip(): value.strip() for key, _, value in (each.partition(":") for each in headers)}
    payload = sys.stdin.buffer.read(BODY_MAX_BYTES + 1)
    if len(payload) > BODY_MAX_BYTES:
        raise Failure(f"the body has more than {BODY_MAX_BYTES} bytes", code=USAGE)
    try:
        body = webhooks.verify(secret, rows, payload, tolerance_s=tolerance)
    except webhooks.WebhookRefused as refused:
        raise Failure(f"not genuine: {refused}") from None
    except ValueError as unusable:
        raise Failure(str(unusable), code=INVALID) from None
    what = str(body.get("type", "")) if isinstance(body, dict) else ""
    emit_document(body, output, lambda: [f"genuine: {safe(what) or 'a request in the format of its receiver'}"])
