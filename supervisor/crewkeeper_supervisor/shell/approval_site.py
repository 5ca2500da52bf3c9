"""Approval site: the HTTP side of approvals and incidents: a form behind each link, and a door for other systems.

What it is asked to do is done at the run's desk, that is, in the journal; it keeps nothing that must not be lost.
Nothing of a run is read for somebody who has neither a genuine link nor the bearer token.
"""

import contextlib
import hmac
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs

import anyio
import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from crewkeeper_bus.errors import ConnectionLost, SubjectError
from crewkeeper_bus.field_types import Text
from crewkeeper_bus.subjects import check_token
from crewkeeper_supervisor.core.acts import Act
from crewkeeper_supervisor.core.gate_state import Approval
from crewkeeper_supervisor.shell import act_desk, act_form
from crewkeeper_supervisor.shell import approval_form as pages
from crewkeeper_supervisor.shell.approval_desk import Desk, Taken, refused
from crewkeeper_supervisor.shell.approval_links import PATH, ApprovalKeys, Grant, LinkRefused, opened
from crewkeeper_supervisor.shell.errors import JournalGap, RunNotFound, StoreUnavailable
from crewkeeper_supervisor.shell.nats_link import Link

BODY_MAX_BYTES: Final = 16 * 1024
BODY_LIMIT_S: Final = 10.0
RUNS_MAX: Final = 16
"""Runs whose state is kept between requests."""
_CODES: Final = {"decided": 200, "late": 409, "unknown": 503}
_TITLES: Final = {"late": "Not done", "unknown": "Not known to be done"}
_DONE: Final = {"approve": "Approved", "deny": "Denied"}
_Asked = TypeVar("_Asked", bound="Decision | Acknowledgement")


class Decision(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What another system sends to decide."""

    decision: str
    """`approve` or `deny`."""
    digest: str
    """Of the exact action, as it was told."""
    by: Text
    """Who has decided there."""
    reason: Text = ""


class Acknowledgement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What another system sends to acknowledge an incident."""

    by: Text
    """Who knows of it there."""
    reason: Text = ""


class _Refused(Exception):  # noqa: N818 - becomes an answer
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Site:
    """The application.

    Args:
        link: The connection to the server whose runs it is about.
        keys: The secrets of the state directory.
    """

    def __init__(self, link: Link, keys: ApprovalKeys) -> None:
        self._link = link
        self._keys = keys
        self._desks: OrderedDict[str, tuple[anyio.Lock, Desk]] = OrderedDict()

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route(f"{PATH}{{token}}", self._form, methods=["GET"]),
                Route(f"{PATH}{{token}}", self._act, methods=["POST"]),
                Route("/v1/approvals/{id}", self._look, methods=["GET"]),
                Route("/v1/approvals/{id}", self._decide, methods=["POST"]),
                Route("/v1/incidents/{id}", self._stands, methods=["GET"]),
                Route("/v1/incidents/{id}/acknowledge", self._acknowledge, methods=["POST"]),
            ]
        )

    # --- people with a link ---

    async def _form(self, request: Request) -> Response:
        try:
            grant = self._grant(request)
            async with self._at(grant.run) as desk:
                if (deed := grant.deed) is not None:
                    return HTMLResponse(act_form.form(await self._standing(desk, grant, deed)))
                approval = _granted(desk, grant)
                if (over := refused(approval, time.time())) is not None:
                    raise _Refused(409, over)
                crew = desk.core.crew
                waiting = tuple(edge.text for edge in desk.core.waits() if edge.agent == approval.agent)[:20]
                asked = pages.Asked(run=desk.run, crew=crew.name if crew else "", approval=approval, waiting=waiting)
                return HTMLResponse(pages.form(asked, "approve" if grant.act == "approve" else "deny"))
        except _Refused as error:
            return HTMLResponse(pages.told("Nothing to do", str(error)), error.status)

    async def _act(self, request: Request) -> Response:
        try:
            grant = self._grant(request)
            fields = _fields(await _body(request, "application/x-www-form-urlencoded"))
            by = f"{fields.get('by', '').strip()[:100] or 'somebody'} (link)"
            reason = fields.get("reason", "").strip()
            async with self._at(grant.run) as desk:
                if (deed := grant.deed) is not None:
                    await self._standing(desk, grant, deed)
                    taken = await act_desk.carry_out(self._link, desk.core, grant, by=by, reason=reason)
                else:
                    approval = _granted(desk, grant)
                    taken = await desk.decide(approval, grant.act, by=by, via="link", reason=reason)
        except _Refused as error:
            return HTMLResponse(pages.told("Nothing done", str(error)), error.status)
        done = _DONE[grant.act] if deed is None else act_form.done(deed) if taken.acted else "Not done yet"
        return HTMLResponse(pages.told(_TITLES.get(taken.outcome, done), taken.why), _CODES[taken.outcome])

    async def _standing(self, desk: Desk, grant: Grant, deed: Act) -> act_form.Standing:
        """What an act is about, if it can still be done."""
        core = desk.core
        if (over := await act_desk.refused(self._link, core, grant)) is not None:
            raise _Refused(409, over)
        incident = act_desk.incident_of(core, grant)
        known = core.ladder.acknowledged.get(grant.about)
        digest = core.ladder.escalations.digests.get(grant.about)
        count = len(digest.incidents) if digest is not None else 0
        return act_form.Standing(
            run=desk.run,
            crew=core.crew.name if core.crew is not None else "",
            act=deed,
            what=incident.finding.summary if incident is not None else f"{count} incidents of one digest",
            cost=core.cost.text,
            incident=incident,
            known_to=known.by if known is not None else "",
        )

    def _grant(self, request: Request) -> Grant:
        try:
            return opened(self._keys, request.path_params["token"], time.time())
        except LinkRefused as error:
            raise _Refused(403, str(error)) from None

    # --- other systems ---

    async def _look(self, request: Request) -> Response:
        try:
            run, id_ = self._authorized(request)
            async with self._at(run) as desk:
                return JSONResponse(_told(run, _found(desk, id_)))
        except _Refused as error:
            return _json_refusal(error)

    async def _decide(self, request: Request) -> Response:
        try:
            run, id_ = self._authorized(request)
            asked = _decoded(await _body(request, "application/json"), Decision)
            if asked.decision not in _DONE:
                raise _Refused(400, "decision is approve or deny")
            async with self._at(run) as desk:
                approval = _found(desk, id_)
                if asked.digest != approval.digest:
                    raise _Refused(403, "the digest is not the one of this action; nothing was decided")
                by = f"{asked.by[:150]} (callback)"
                taken = await desk.decide(approval, asked.decision, by=by, via="callback", reason=asked.reason)
                return _answer(run, approval, taken)
        except _Refused as error:
            return _json_refusal(error)

    async def _stands(self, request: Request) -> Response:
        try:
            run, id_ = self._authorized(request)
            async with self._at(run) as desk:
                return JSONResponse(_incident_told(desk, id_))
        except _Refused as error:
            return _json_refusal(error)

    async def _acknowledge(self, request: Request) -> Response:
        try:
            run, id_ = self._authorized(request)
            asked = _decoded(await _body(request, "application/json"), Acknowledgement)
            async with self._at(run) as desk:
                _incident_told(desk, id_)
                grant = Grant(run=run, about=id_, act="acknowledge", expires_s=0, digest="callback")
                over = await act_desk.refused(self._link, desk.core, grant)
                if over is not None:
                    return JSONResponse(_incident_told(desk, id_) | {"outcome": "late", "why": over}, 409)
                by = f"{asked.by[:150]} (callback)"
                taken = await act_desk.carry_out(self._link, desk.core, grant, by=by, reason=asked.reason)
                told = {"outcome": taken.outcome, "why": taken.why}
                return JSONResponse(_incident_told(desk, id_) | told, _CODES[taken.outcome])
        except _Refused as error:
            return _json_refusal(error)

    def _authorized(self, request: Request) -> tuple[str, str]:
        """Run and what is asked about, of an id such as `trip-1a2b3c.A12-0`."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._keys.callback.encode()):
            raise _Refused(401, "the bearer token is missing or wrong")
        run, _, id_ = str(request.path_params["id"]).partition(".")
        try:
            return check_token(run, "run"), check_token(id_, "id")
        except SubjectError:
            raise _Refused(404, "nothing is called that: an id is <run>.<approval or incident>") from None

    # --- both ---

    @contextlib.asynccontextmanager
    async def _at(self, run: str) -> AsyncIterator[Desk]:
        """The desk of a run with everything that its journal has, for one request at a time."""
        lock, desk = self._desks.setdefault(run, (anyio.Lock(), Desk(self._link, run)))
        self._desks.move_to_end(run)
        try:
            async with lock:
                await desk.catch_up()
                yield desk
        except RunNotFound:
            self._desks.pop(run, None)
            raise _Refused(404, "the run of this is not there any more") from None
        except (StoreUnavailable, ConnectionLost, JournalGap) as error:
            raise _Refused(503, f"the journal cannot be read or written now ({type(error).__name__})") from None
        finally:
            while len(self._desks) > RUNS_MAX:
                self._desks.popitem(last=False)


def _granted(desk: Desk, grant: Grant) -> Approval:
    """The approval a link is for, if it still stands for the same action and the same people."""
    approval = _found(desk, grant.about)
    if (approval.digest, approval.who) != (grant.digest, grant.who):
        raise _Refused(403, "this link was made for another action; nothing is decided by it")
    return approval


def _found(desk: Desk, id_: str) -> Approval:
    approval = desk.approvals.get(id_)
    if approval is None:
        raise _Refused(404, "no such approval, or it was decided long ago")
    return approval


async def _body(request: Request, kind: str) -> bytes:
    given = request.headers.get("content-type", kind).partition(";")[0].strip().lower()
    if given != kind:
        raise _Refused(415, f"send {kind}")
    data = bytearray()
    try:
        with anyio.fail_after(BODY_LIMIT_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_MAX_BYTES:
                    raise _Refused(413, f"more than {BODY_MAX_BYTES} bytes")
    except TimeoutError:
        raise _Refused(408, f"the request was not complete within {BODY_LIMIT_S:g} s") from None
    return bytes(data)


def _fields(body: bytes) -> dict[str, str]:
    try:
        given = parse_qs(body.decode(), max_num_fields=10, keep_blank_values=True)
    except ValueError:
        raise _Refused(400, "the form cannot be read") from None
    return {name: values[0] for name, values in given.items()}


def _decoded(body: bytes, kind: type[_Asked]) -> _Asked:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _Refused(400, f"this cannot be read: {str(error)[:200]}") from None


def _incident_told(desk: Desk, id_: str) -> dict[str, Any]:
    incident = desk.core.incidents.get(id_)
    if incident is None:
        raise _Refused(404, "no such incident, or it was over long ago")
    known = desk.core.ladder.acknowledged.get(id_)
    return {
        "id": f"{desk.run}.{id_}",
        "run": desk.run,
        "incident": id_,
        "kind": incident.finding.kind,
        "state": incident.state,
        "summary": incident.finding.summary,
        "since": pages.utc(incident.finding.at_s),
        "acknowledged_by": known.by if known is not None else "",
        "acknowledged_at": pages.utc(known.at_s) if known is not None else "",
        "reason": known.why if known is not None else "",
    }


def _told(run: str, approval: Approval) -> dict[str, Any]:
    over = refused(approval, time.time())
    expired = approval.state == "pending" and over is not None
    return {
        "id": f"{run}.{approval.id}",
        "run": run,
        "approval": approval.id,
        "state": "expired" if expired else approval.state,
        "agent": approval.agent,
        "tool": approval.tool,
        "arguments": pages.arguments(approval),
        "digest": approval.digest,
        "policy": approval.policy,
        "rule": approval.rule,
        "who": approval.who,
        "asked_at": pages.utc(approval.asked_at_s),
        "expires_at": pages.utc(approval.expires_at_s),
        "by": approval.by,
        "reason": approval.reason,
    }


def _answer(run: str, approval: Approval, taken: Taken) -> Response:
    told = {"outcome": taken.outcome, "why": taken.why, "acted": taken.acted}
    return JSONResponse(_told(run, approval) | told, _CODES[taken.outcome])


def _json_refusal(error: _Refused) -> Response:
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse({"error": str(error)}, error.status, headers)
