"""Safety: what of a server's settings would lose decisions or let agents see and write what they must not.

What is visible depends on the rights that there are: how often servers write to disk is told to a system user only.
What cannot be seen is not judged. Nothing is changed here.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import anyio
import nats.errors
from msgspec import Struct
from nats.aio.msg import Msg
from nats.js.api import StreamInfo

from crewkeeper_bus.credentials import Credentials
from crewkeeper_bus.errors import ConnectionLost
from crewkeeper_supervisor.shell import lease, ledger
from crewkeeper_supervisor.shell.errors import StoreUnavailable, UnsafeServer
from crewkeeper_supervisor.shell.logbook import logger
from crewkeeper_supervisor.shell.nats_link import LINK_ERRORS, SAFE_REPLICAS, Link, connect, named_replicas
from crewkeeper_supervisor.shell.place import Place

LIMIT_S: Final = 10.0
ANSWERS_S: Final = 1.0
"""How long servers are listened to that were all asked at once."""
PAYLOAD_MIN_BYTES: Final = 1024 * 1024
"""The server's own default: a batch of decisions is half of it, with room for what stands around it."""
SYNC_MAX_S: Final = 10.0
FULL: Final = 0.9
NAMED_MAX: Final = 3
_OURS: Final = ("CREW_", "KV_", "HELD_")
_KEPT: Final = (ledger.STREAM, f"KV_{lease.BUCKET}")
"""Streams without which nothing is decided, or is decided twice."""

Grade = Literal["warn", "fail"]


class Risk(Struct, frozen=True, kw_only=True):
    """One setting that is not safe."""

    name: str
    grade: Grade
    """`fail`: a controller refuses to serve."""
    text: str
    fix: str
    """One command or sentence that mends it."""


class Facts(Struct, frozen=True, kw_only=True):
    """What a server says of itself."""

    servers: int = 1
    """Servers of its cluster, as far as they are known; one that is clustered and names no other may have others."""
    is_clustered: bool = False
    counted: bool = True
    """Whether that is their number, as the cluster's own leader or its streams name them, and not that of addresses."""
    asks_who: bool = True
    """Whether it lets in nobody whom it does not know."""
    payload_bytes: int = PAYLOAD_MIN_BYTES
    streams: tuple[StreamInfo, ...] = ()
    sync_s: dict[str, float] = {}
    """By server: seconds between two writes to disk, 0 for always; only those that tell us."""
    stored_bytes: int = 0
    store_bytes: int = 0
    """What the account may store; 0: not limited."""
    replicas_named: int = 0
    """What CREWKEEPER_REPLICAS says; 0: nothing."""


async def facts(link: Link, system: Credentials | None) -> Facts:
    """Ask a server about its settings; takes seconds.

    Args:
        link: A connection of the supervisor.
        system: Who may ask servers about themselves; None: nobody.

    Raises:
        StoreUnavailable: The server did not answer.
    """
    info: dict[str, Any] = link.nc._server_info
    try:
        account = await link.js.account_info()
        streams: list[StreamInfo] = []
        while page := await link.js.streams_info(offset=len(streams)):
            streams += page
    except LINK_ERRORS as error:
        raise StoreUnavailable(f"the settings of {link.place.host}: {type(error).__name__}") from error
    told = [] if system is None else await _told(link, system, link.advertised)
    servers, counted = _size(link, told, streams) if link.is_clustered else (1, True)
    return Facts(
        servers=servers,
        is_clustered=link.is_clustered,
        counted=counted,
        asks_who=bool(info.get("auth_required")) and not any(each.get("no_auth_user") for each in told),
        payload_bytes=int(info.get("max_payload", PAYLOAD_MIN_BYTES)),
        streams=tuple(streams),
        sync_s=dict(_sync_s(told)),
        stored_bytes=account.storage,
        store_bytes=max(0, account.limits.max_storage),
        replicas_named=named_replicas(),
    )


def judge(found: Facts) -> list[Risk]:
    """What of it is not safe, the worst first."""
    risks = [*_copies(found), *_payload(found), *_journals(found), *_syncing(found), *_logins(found), *_room(found)]
    return sorted(risks, key=lambda risk: risk.grade != "fail")


async def examine(link: Link, system: Credentials | None) -> list[Risk]:
    """Ask and judge.

    Raises:
        StoreUnavailable: The server did not answer within 10 s.
    """
    with anyio.move_on_after(LIMIT_S):
        return judge(await facts(link, system))
    raise StoreUnavailable(f"the settings of {link.place.host}: no answer within {LIMIT_S:g} s")


async def check(link: Link, system: Credentials | None) -> None:
    """Log what is not safe, once, when a controller starts.

    Raises:
        UnsafeServer: Serving there would lose decisions.
    """
    try:
        risks = await examine(link, system)
    except StoreUnavailable as error:
        logger().warning("server.not_examined", cause=str(error)[:200])
        return
    for risk in risks:
        log = logger().error if risk.grade == "fail" else logger().warning
        log("server.unsafe", server=link.place.host, setting=risk.name, cause=risk.text, fix=risk.fix)
    if failed := [risk for risk in risks if risk.grade == "fail"]:
        raise UnsafeServer(f"{link.place.host} is not safe to serve on: {failed[0].text}; {failed[0].fix}")


# --- what is asked ---


async def _told(link: Link, system: Credentials, servers: int) -> list[dict[str, Any]]:
    """What each server says of its configuration: once all have answered, or after a second."""
    answers: list[dict[str, Any]] = []
    enough = anyio.Event()

    async def take(msg: Msg) -> None:
        told = json.loads(msg.data)
        answers.append({"name": told.get("server", {}).get("name", "?"), **(told.get("data") or {})})
        if len(answers) >= max(servers, _cluster_size(answers)):
            enough.set()

    try:
        async with connect(Place.of(link.place.state, system), name="supervisor safety") as asking:
            inbox = asking.nc.new_inbox()
            await asking.nc.subscribe(inbox, cb=take)
            await asking.nc.publish("$SYS.REQ.SERVER.PING.VARZ", b"", reply=inbox)
            with anyio.move_on_after(ANSWERS_S):
                await enough.wait()
    except (ConnectionLost, nats.errors.Error):
        return []  # whether it takes these credentials is another check
    return answers


def _size(link: Link, told: Iterable[dict[str, Any]], streams: Iterable[StreamInfo]) -> tuple[int, bool]:
    """How many servers a cluster has, and whether that is certain.

    Addresses tell little: servers behind one address advertise one, and a server with several advertises them all.
    Where servers may be asked about themselves, they know; else those are counted that lead a stream or follow.
    """
    if known := _cluster_size(told):
        return known, True
    copies = [info.cluster for info in streams if info.cluster is not None]
    named = {str(each.leader) for each in copies if each.leader}
    named |= {str(peer.name) for each in copies for peer in each.replicas or ()}
    if len(named) >= SAFE_REPLICAS:
        return len(named), True
    return (2, False) if link.is_crowded else (max(len(named), link.advertised), False)


def _cluster_size(told: Iterable[dict[str, Any]]) -> int:
    """Servers that decide together where streams are, as those say that were asked; 0: none does."""
    metas = [(each.get("jetstream") or {}).get("meta") or {} for each in told]
    return max((int(meta.get("cluster_size") or 0) for meta in metas), default=0)


def _sync_s(told: Iterable[dict[str, Any]]) -> Iterable[tuple[str, float]]:
    for each in told:
        config = (each.get("jetstream") or {}).get("config") or {}
        if config.get("sync_always"):
            yield each["name"], 0.0
        elif "sync_interval" in config:
            yield each["name"], config["sync_interval"] / 1e9


# --- how it is judged ---


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def _copies(found: Facts) -> Iterable[Risk]:
    if found.servers == 2:
        yield Risk(
            name="cluster",
            grade="warn",
            text="a cluster of two servers: nothing is stored while one of them is down",
            fix="run three servers, or one",
        )
    if found.servers == 2 or not found.is_clustered:
        return
    ours = [s for s in found.streams if str(s.config.name).startswith(_OURS) or s.config.name in _KEPT]
    few = [str(s.config.name) for s in ours if (s.config.num_replicas or 1) < SAFE_REPLICAS]
    if few and not (found.servers == 1 and found.counted):
        grade: Grade = "fail" if set(few) & set(_KEPT) and found.counted and not found.replicas_named else "warn"
        named = sorted(few, key=lambda name: name not in _KEPT)
        of = f"{found.servers} servers" if found.servers > 1 else "a cluster's servers (how many there are is not told)"
        yield Risk(
            name="replicas",
            grade=grade,
            text=f"fewer than {SAFE_REPLICAS} of {of} keep {_names(named)}: what they lose is lost",
            fix=f"nats stream edit {named[0]} --replicas {SAFE_REPLICAS}, or accept it with CREWKEEPER_REPLICAS",
        )


def _payload(found: Facts) -> Iterable[Risk]:
    if found.payload_bytes < PAYLOAD_MIN_BYTES:
        yield Risk(
            name="max_payload",
            grade="fail",
            text=f"it takes messages of {found.payload_bytes:,} bytes at most: batches of decisions can be larger",
            fix=f"max_payload: {PAYLOAD_MIN_BYTES} in the configuration of every server",
        )


def _journals(found: Facts) -> Iterable[Risk]:
    """Streams that somebody else made or changed."""
    for info in found.streams:
        config, name = info.config, str(info.config.name)
        is_journal = name.startswith("CREW_")
        if not is_journal and name != ledger.STREAM:
            continue
        limits = ("max_age", "max_msgs", "max_msgs_per_subject", "max_bytes")
        wrong = [key for key in limits if (getattr(config, key) or 0) > 0]
        wrong += [] if config.deny_delete else ["deny_delete"]
        wrong += ["deny_purge"] if is_journal and not config.deny_purge else []
        wrong += ["no_ack"] if is_journal and not config.no_ack else []
        wrong += ["republish"] if is_journal and config.republish is None else []
        if wrong:
            yield Risk(
                name="streams",
                grade="warn",
                text=f"{name} has other settings than it was made with: {', '.join(wrong)}",
                fix=f"nats stream edit {name}, or begin a new run",
            )


def _syncing(found: Facts) -> Iterable[Risk]:
    slow = {name: every_s for name, every_s in sorted(found.sync_s.items()) if every_s > SYNC_MAX_S}
    if slow:
        longest_s = max(slow.values())
        yield Risk(
            name="sync_interval",
            grade="warn",
            text=f"{_names(list(slow))} write to disk every {longest_s:g} s: a power cut loses what was stored since",
            fix="sync_interval: always (or 1s) in the jetstream block of every server",
        )


def _logins(found: Facts) -> Iterable[Risk]:
    if not found.asks_who:
        yield Risk(
            name="logins",
            grade="warn",
            text="it lets in whoever reaches it: agents can read and write everything, decisions too",
            fix="supervisor creds block",
        )


def _room(found: Facts) -> Iterable[Risk]:
    if found.store_bytes and found.stored_bytes > FULL * found.store_bytes:
        share = found.stored_bytes / found.store_bytes
        yield Risk(
            name="room",
            grade="warn",
            text=f"{share:.0%} of what the account may store is used: a full store takes no decision",
            fix="raise max_file of the account, or remove old journals",
        )
