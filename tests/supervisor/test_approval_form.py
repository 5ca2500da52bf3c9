"""What people read before they decide: all of it, or how much of it is not there."""

import html
import json

import msgspec

from crewkeeper_bus.codec import PAYLOAD_MAX_BYTES
from crewkeeper_supervisor.core.gate_state import Approval
from crewkeeper_supervisor.shell import approval_form
from crewkeeper_supervisor.shell.approval_form import Asked, form


def page_of(args: object) -> str:
    approval = Approval(
        id="A1-0",
        agent="a",
        call="c1",
        tool="run",
        digest="d",
        policy="p",
        rule="r",
        because="",
        args=msgspec.Raw(msgspec.json.encode(args)),
        cost_microusd=0,
        who="ops",
        asked_at_s=1.0,
        expires_at_s=2.0,
    )
    return form(Asked(run="r", crew="c", approval=approval), "approve")


def test_nothing_is_hidden_behind_what_comes_first() -> None:
    page = page_of({"command": "ls", "note": "x" * 200_000, "then": "rm -rf /"})
    assert "&quot;then&quot;: &quot;rm -rf /&quot;" in page
    assert "not shown" not in page


def test_a_call_as_large_as_may_be_is_shown_whole_however_deep_it_is() -> None:
    deep: object = "\u200b" * 10
    for _ in range(60):
        deep = [deep]
    args: dict[str, object] = {"deep": []}
    size = len(msgspec.json.encode(deep)) + 1
    args["deep"] = [deep] * (PAYLOAD_MAX_BYTES // size - 1)
    args["then"] = "rm -rf /"
    page = page_of(args)
    assert len(msgspec.json.encode(args)) > 0.9 * PAYLOAD_MAX_BYTES
    assert "&quot;then&quot;: &quot;rm -rf /&quot;" in page
    assert "not shown" not in page
    shown = html.unescape(page.partition("<pre>")[2].partition("</pre>")[0])
    assert json.loads(shown) == args, "nothing of it has changed but blanks"


def test_what_is_not_shown_is_counted_before_it() -> None:
    page = page_of({"header": "AKIAIOSFODNN7EXAMPLE", "note": "x" * 1_100_000})
    said = page.partition("Arguments: ")[2].partition("</dt>")[0]
    assert "1 of their parts not shown, as they look like secrets" in said
    assert f"the last {int(said.partition(' ')[0]) - approval_form.ARGUMENTS_MAX_CHARS} not shown" in said
