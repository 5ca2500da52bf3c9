"""Reading: requests about resources and prompts, what they name, and listings without what may not be read.

A resource is what a server lets clients read, a prompt a text that it has for their models: both bring foreign text to
a model, so both go through policy. How a request is put to the gate is the proxy's part.
"""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from crewkeeper_supervisor.gate.resource_uri import oddity
from crewkeeper_supervisor.mcp import rpc
from crewkeeper_supervisor.mcp.rpc import BadFrame, Frame

REFUSED: Final = -32001
"""JSON-RPC error of a refusal: these requests have no result in which a model could read it."""
ENTRIES_MAX: Final = 2000
"""Of one page of a listing; later ones are left out."""


class Listing(NamedTuple):
    """A request that lists."""

    kind: str
    """`resource` or `prompt`."""
    entries: str
    """Key of the result that has them."""
    name: str
    """Key of an entry that names it."""


LISTINGS: Final = {
    "resources/list": Listing("resource", "resources", "uri"),
    "resources/templates/list": Listing("resource", "resourceTemplates", "uriTemplate"),
    "prompts/list": Listing("prompt", "prompts", "name"),
}
READERS: Final = {"resources/read": "resource", "resources/subscribe": "resource", "prompts/get": "prompt"}
_BESIDE: Final = ("nextCursor", "resultType", "ttlMs", "cacheScope", "_meta")
HARMLESS: Final = ("resources/unsubscribe",)
_REFERENCES: Final = {"ref/resource": ("resource", "uri"), "ref/prompt": ("prompt", "name")}


class Wanted(NamedTuple):
    """What a request is about."""

    kind: str
    name: str
    """In the server's words."""
    args: dict[str, Any]
    """What rules see as `args`."""


def wanted(method: str, params: dict[str, Any]) -> Wanted:
    """What a request wants to read.

    Raises:
        BadFrame: It does not say.
    """
    kind = READERS[method]
    if kind == "resource":
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise BadFrame("must have a uri")
        if odd := oddity(uri):
            raise BadFrame(f"must have a uri that is spelled as plainly as it can be: {odd}")
        return Wanted(kind, uri, {"uri": uri})
    name, args = params.get("name"), params.get("arguments")
    if not isinstance(name, str) or not isinstance(args, dict | None):
        raise BadFrame("must have a name, and arguments that are a mapping")
    return Wanted(kind, name, args or {})


def granted(want: Wanted, args: dict[str, Any]) -> dict[str, Any]:
    """The parameters to ask the server with: the arguments of the grant, where a rule may have redacted some."""
    if want.kind == "resource":
        return {"uri": args.get("uri", "")}
    return {"name": want.name} | ({"arguments": args} if args else {})


def completed(params: dict[str, Any]) -> tuple[str, str]:
    """Kind and name of what a completion is asked for.

    Raises:
        BadFrame: It does not say.
    """
    reference = params.get("ref")
    found = _REFERENCES.get(str(reference.get("type"))) if isinstance(reference, dict) else None
    name = reference.get(found[1]) if found is not None and isinstance(reference, dict) else None
    if found is None or not isinstance(name, str):
        raise BadFrame("must have a ref to a prompt or a resource")
    return found[0], name


def names_of(result: dict[str, Any], listing: Listing) -> list[str]:
    """What a listing names."""
    return [each[listing.name] for each in _entries(result, listing)]


def without(result: dict[str, Any], listing: Listing, hidden: Collection[str]) -> dict[str, Any]:
    """A listing without what is hidden, and without what has no name to judge it by."""
    shown = [each for each in _entries(result, listing) if each[listing.name] not in hidden]
    return known(result) | {listing.entries: shown}


def known(result: dict[str, Any]) -> dict[str, Any]:
    """Of a listing, what stands beside the entries and has a meaning."""
    return {key: result[key] for key in _BESIDE if key in result}


def _entries(result: dict[str, Any], listing: Listing) -> list[dict[str, Any]]:
    entries = result.get(listing.entries)
    listed = entries[:ENTRIES_MAX] if isinstance(entries, list) else []
    return [each for each in listed if isinstance(each, dict) and isinstance(each.get(listing.name), str)]


def refusal(frame: Frame, code: str, text: str) -> Frame:
    """The answer to a request that was refused."""
    return rpc.failure(frame.id, REFUSED, text, {rpc.REFUSAL_KEY: code})
