"""Resource URIs: the one spelling that decisions are made on, and which spellings are refused; nothing is read here.

A resource has many spellings, and a rule names one of them. Those that differ only in how signs are written, and that
servers and clients do use, are brought to one form: characters other than ASCII as themselves (RFC 3987) and composed
(NFC), signs of a path that need no escape without one, signs that no URI may have with one. Everything else that could
be another spelling, and that nobody needs, is refused before it comes to a decision (RFC 3986, 6.2; WHATWG URL).
"""

import ipaddress
import re
import unicodedata
from typing import Final

from msgspec.structs import replace

from crewkeeper_supervisor.gate.call import Call

_WEB_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}
"""Schemes that every library reads in its own way, with the ports that need not be said."""
_WEB: Final = re.compile(r"\A((?:[^:/?#]*\.)?(?:https?|wss?|ftp)://)([^/?#]*)")
"""The beginning of such a URI; before it may stand the name of a server, with a dot."""
_ESCAPED_CHARACTER: Final = re.compile(
    r"%[CD][0-9A-F]%[89AB][0-9A-F]|%E[0-9A-F](?:%[89AB][0-9A-F]){2}|%F[0-4](?:%[89AB][0-9A-F]){3}"
)
_ESCAPED_SIGN: Final = re.compile(r"%(?:2[146789BC]|3[ABD]|40|5[BD])")
"""`!$&'()+,:;=@[]`, which need no escape in a path, and which some programs escape. `*` is not among them: patterns."""
_TO_BE_ESCAPED: Final = re.compile(r'["<>^`{|}]')
_ESCAPED_AGAIN: Final = re.compile(r"%(?:22|3[CE]|5E|60|7[BCD])")
"""The same, escaped."""
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_STAR: Final = "\ue000"
"""Stands for an escaped star meanwhile; as itself it is refused."""
_NEEDLESS: Final = re.compile(
    r"%(?:2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE]|[0-9A-F]?[a-f]|[a-f][0-9A-F])|%C[01]|%E0%[89]|%F0%8"
)
"""Percent-encoded letters, figures and `-._~` (RFC 3986, 6.2.2), encodings in small letters, and those that have more
bytes than their character needs, which no UTF-8 has, and which some programs read."""
_NO_ESCAPE: Final = re.compile(r"%(?![0-9A-F]{2})|%25(?=[0-9A-Fa-f]{2})")
"""A percent sign that escapes nothing, and one that will when its own escape is undone."""
_SLASH: Final = re.compile("/|%2F|%5C")
"""What is between the parts of a path, at the latest when a server has undone its escapes."""
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_HOST: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z")
_NUMERIC: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")


def plain(call: Call) -> Call:
    """A call as rules see it: one that reads a resource names it in the form of `normal`."""
    if call.hop != "resource":
        return call
    uri = call.args.get("uri")
    args = call.args | {"uri": normal(uri)} if isinstance(uri, str) else call.args
    return replace(call, to=normal(call.to), args=args)


def normal(uri: str) -> str:
    """The form of a URI that decisions are made on, also behind the name of a server and a dot."""
    return normal_pattern(uri.replace("*", "%2A"))


def normal_pattern(pattern: str) -> str:
    """The same of a pattern of URIs, in which `*` stays what it is; a star itself is written `%2A`."""
    web = _WEB.match(pattern)
    if web is not None:
        pattern = pattern.partition("#")[0]  # what comes after it is never sent to a host
        bare = web.end() == len(pattern) or pattern[web.end()] == "?"
        if bare and not re.search("[*%]", web[2]):
            pattern = f"{pattern[: web.end()]}/{pattern[web.end() :]}"
    text = _ESCAPE.sub(lambda found: found[0].upper(), pattern)
    cut = min((at for at in (text.find("?"), text.find("#")) if at >= 0), default=len(text))
    text = _ESCAPED_SIGN.sub(_sign, text[:cut]) + text[cut:]
    text = _ESCAPED_CHARACTER.sub(_character, _ESCAPED_AGAIN.sub(_sign, text.replace("%2A", _STAR)))
    # What a sign may stand for as well is a sign by now: the last letter of an escape is composed with an accent.
    text = unicodedata.normalize("NFC", text).replace(_STAR, "%2A")
    return _TO_BE_ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _sign(escaped: re.Match[str]) -> str:
    return chr(int(escaped[0][1:], 16))


def _character(escaped: re.Match[str]) -> str:
    """One character for its escapes, unless it cannot be seen: as itself such a one is refused."""
    try:
        character = bytes.fromhex(escaped[0].replace("%", "")).decode()
    except ValueError:
        return escaped[0]
    return character if character.isprintable() else escaped[0]


def oddity(uri: str) -> str:
    """Why a URI may be another spelling of one that rules name, beyond what `normal` makes equal; empty: it is not.

    Rules match the text, and servers what it stands for: without its escapes, its dots and its doubled slashes.
    """
    scheme, colon, rest = uri.partition(":")
    path = re.split("[?#]", rest, maxsplit=1)[0].removeprefix("//")
    parts = re.split(_SLASH, path)
    if scheme != scheme.lower():
        return "capitals in its scheme"
    if not uri.isprintable() or " " in uri or "\\" in uri:
        return "signs that have to be escaped"
    if _NEEDLESS.search(uri):
        return "escapes of what needs none, or in small letters"
    if _NO_ESCAPE.search(uri):
        return "escapes of escapes, or a percent sign that is not written %25"
    if "%00" in uri:
        return "a NUL, at which some programs end a name"
    if colon and not _SCHEME.match(scheme):
        return "no scheme before its first colon"
    if "." in parts or ".." in parts or "" in path.split("/")[1:-1]:
        return "dots or nothing between slashes"
    if scheme == "file" and (rest != f"//{path}" or not path.startswith("/") or len(parts) > path.count("/") + 1):
        return "a file is named by file:/// and its path alone, whose slashes are not escaped"
    if scheme == "file" and path.endswith("/") and path != "/":
        return "a slash at the end of a file's name"
    return _odd_host(scheme, rest) if scheme in _WEB_PORTS else ""


def _odd_host(scheme: str, rest: str) -> str:
    found = re.match(r"//([^/?#]*)", rest)
    host, colon, port = ("", "", "") if found is None else _host_and_port(found[1])
    if not host:
        return f"no host after {scheme}://"
    if host.startswith("["):
        is_plain = host == f"[{_address(host[1:-1])}]"
    elif _NUMERIC.match(host.rpartition(".")[2]):
        is_plain = host == _address(host)
    else:
        is_plain = _HOST.match(host) is not None
    if not is_plain:
        return "a host is named in small letters, with xn-- for others than ASCII, no user before and no dot behind it"
    if colon and (not _PORT.match(port) or port == _WEB_PORTS[scheme]):
        return "a port that need not be said, or is none"
    return ""


def _host_and_port(authority: str) -> tuple[str, str, str]:
    if authority.startswith("["):
        end = authority.find("]") + 1
        return authority[:end], authority[end : end + 1], authority[end + 1 :]
    return authority.partition(":")


def _address(text: str) -> str:
    """An address in its own spelling; empty if it is none, or another one with more to it: a zone, or `::ffff:`."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    is_other = isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped)
    return "" if is_other else str(address)
