"""Approval form: the pages that somebody with a link sees, as plain HTML; nothing here decides or knows a secret.

Everything that is shown passes through `shown`: agents choose names and arguments, and a page on which somebody
approves an action is worth forging. So there are text nodes only, no script, no image, no address but the form's own,
and what cannot be printed is written out.
"""

import base64
import hashlib
import html
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from crewkeeper_bus.redaction import Redactor, TooDeep
from crewkeeper_supervisor.core.gate_state import Approval
from crewkeeper_supervisor.shell.approval_links import Choice

INDENTED_MAX_CHARS: Final = 400_000
"""What is longer is shown without indentation, which can be many times what it sets off."""
ARGUMENTS_MAX_CHARS: Final = 1_000_000
"""More than a call has unless a crew file raises the limits: what is not shown, nobody can approve of."""
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem}"
    "body{color:#111;background:#fff}"
    "h1{font-size:1.4rem}dt{font-weight:600;margin-top:.6rem}dd{margin:0;overflow-wrap:anywhere}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f2f2f2;padding:.7rem;border:1px solid #ccc}"
    "label{display:block;margin-top:.8rem}input{font:inherit;width:100%;box-sizing:border-box;padding:.3rem}"
    "button{font:inherit;font-weight:600;margin-top:1.2rem;padding:.5rem 1.5rem}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#111}pre{background:#222;border-color:#555}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of every page: nothing but the one style, and a form that goes back where it came from."""
_REDACTOR: Final = Redactor(kinds=("secrets",))
_WORDS: Final = {"approve": "Approve", "deny": "Deny"}


class Asked(Struct, frozen=True, kw_only=True):
    """What there is to know about one approval, for people."""

    run: str
    crew: str
    approval: Approval
    waiting: tuple[str, ...] = ()
    """Who waits for it, one sentence each."""


def arguments(approval: Approval) -> str:
    """The arguments of the call as indented JSON: printable characters, without what looks like a secret."""
    return _arguments(approval)[0]


def _arguments(approval: Approval) -> tuple[str, str]:
    """The same, and in words how much that is, and how much is not shown of it."""
    try:
        value, hidden = _REDACTOR.value(msgspec.json.decode(approval.args))
    except TooDeep as error:
        return f"not shown: {error}", "not shown"
    text = _printable(value)
    told = f"{len(text)} characters"
    if hidden:
        told += f", {len(hidden)} of their parts not shown, as they look like secrets"
    if len(text) <= ARGUMENTS_MAX_CHARS:
        return text, told
    left = len(text) - ARGUMENTS_MAX_CHARS
    return f"{text[:ARGUMENTS_MAX_CHARS]}\n… {left} more characters", f"{told}, the last {left} not shown"


def _printable(value: Any) -> str:
    lines = msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode().split("\n")
    if sum(map(len, lines)) > INDENTED_MAX_CHARS:
        lines = [line.lstrip(" ") for line in lines]
    return "\n".join(line if line.isprintable() else _escaped(line) for line in lines)


def form(asked: Asked, decision: Choice) -> str:
    """The page behind a link: what would be decided, and a button. Looking at it does nothing."""
    word = _WORDS[decision]
    return page(
        f"{word} this call?",
        f"<dl>{_facts(asked)}</dl>",
        # No action: it goes to the address of the page itself, which holds the token.
        '<form method="post" autocomplete="off">'
        '<label>Your name, for the record <input name="by" maxlength="100"></label>'
        '<label>Reason, told to the agent <input name="reason" maxlength="500"></label>'
        f'<button type="submit">{word}</button></form>',
    )


def told(title: str, text: str) -> str:
    """A page that says one thing."""
    return page(title, f"<p>{shown(text)}</p>")


def utc(at_s: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _facts(asked: Asked) -> str:
    approval = asked.approval
    rows = [
        ("Agent", approval.agent),
        ("Crew and run", f"{asked.crew}, {asked.run}"),
        ("Wants to call", approval.tool),
        ("It would cost", f"${approval.cost_microusd / 1_000_000:.6f}"),
        ("Why you are asked", approval.because or "a rule wants a person to decide"),
        ("Rule", f"{approval.rule or '-'} (policy {approval.policy[:12]})"),
        ("For", approval.who),
        ("Asked at", utc(approval.asked_at_s)),
        ("Refused if nobody decides until", utc(approval.expires_at_s)),
        ("Waiting", "; ".join(asked.waiting) or "-"),
        ("Digest of the exact action", approval.digest),
    ]
    told = "".join(f"<dt>{shown(name)}</dt><dd>{shown(value)}</dd>" for name, value in rows)
    text, size = _arguments(approval)
    return f"{told}<dt>Arguments: {shown(size)}</dt><dd><pre>{html.escape(text)}</pre></dd>"


def page(title: str, *parts: str) -> str:
    """A whole page; its parts are HTML already."""
    head = f'<meta charset="utf-8"><title>{shown(title)}</title><meta name="viewport" content="width=device-width">'
    body = f"<h1>{shown(title)}</h1>{''.join(parts)}"
    head += f"<style>{_STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{body}</main></body></html>'


def shown(text: str) -> str:
    """One text node: what has a meaning in HTML is escaped, what cannot be printed is written out."""
    return html.escape(_escaped(_bounded(text)))


def _bounded(text: str) -> str:
    return text if len(text) <= 2000 else f"{text[:1999]}…"


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
