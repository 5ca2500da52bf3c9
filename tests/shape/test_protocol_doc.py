"""docs/protocol.md says exactly what the code says: every kind, every message, every field."""

import ast
import os
import re
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from crewkeeper_bus import codec, conditions, facts, field_types, message_base, messages, tool_messages
from crewkeeper_bus.subjects import AGENT_KINDS, RECEIVED_KINDS, REPORTED_KINDS, Kind

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "protocol.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def structs_of(type_: Any) -> list[type[msgspec.Struct]]:
    """The message structs that travel under one kind."""
    return list(get_args(type_)) or [type_]


def docs_of_fields() -> dict[str, dict[str, str]]:
    """Attribute docstrings of the message modules: class to field to its first line."""
    found: dict[str, dict[str, str]] = {}
    for node in [
        n
        for module in (conditions, facts, message_base, messages, tool_messages)
        for n in ast.parse(Path(module.__file__).read_text()).body
    ]:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found[node.name] = {}
        for item, following in zip(node.body, node.body[1:], strict=False):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                is_doc = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                fields[item.target.id] = str(following.value.value) if is_doc else ""  # type: ignore[attr-defined]
    return found


WORDS = {
    field_types.Name: "name",
    field_types.NameOrNone: "name, or empty",
    field_types.Text: "text",
    field_types.Count: "integer",
    field_types.Seconds: "seconds",
}
"""Types whose limits the page explains once, above the tables."""


def describe_limits(args: tuple[Any, ...]) -> str:
    """An annotated type: what it is, and the choices, the pattern or the limits that go with it."""
    if Annotated[args] in WORDS:
        return WORDS[Annotated[args]]
    text = describe_type(args[0])
    meta = next(each for each in args[1:] if isinstance(each, msgspec.Meta))
    pattern = (meta.pattern or "").removeprefix("^").removesuffix("$").removesuffix(r"\Z")
    if chosen := re.fullmatch(r"\(([\w|]*)\)|\[(\w+)\]", pattern):
        choices = chosen[1].split("|") if chosen[1] is not None else list(chosen[2])
        return ", ".join(f"`{each}`" if each else "empty" for each in choices)
    if pattern:
        return f"{text} `{pattern}`"
    if meta.max_length is not None:
        text += f", at most {meta.max_length}"
    if meta.ge is not None and meta.le is not None:
        text += f", {meta.ge} to {'2^53' if meta.le == 2**53 else meta.le}"
    return text


def describe_type(type_: Any) -> str:
    """A field's type in the words of the page."""
    origin, args = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return describe_limits(args)
    if type_ == messages.Condition:
        return "condition"
    if origin in (tuple, list):
        return "list of " + describe_type(args[0]) if args and args[-1] is Ellipsis else "pair of text"
    if origin is Union or type(type_).__name__ == "UnionType":
        rest = [a for a in args if a is not type(None) and a is not msgspec.UnsetType]
        if len(rest) > 2:
            return "condition"
        return " or ".join(describe_type(a) for a in rest) + (" or null" if type(None) in args else "")
    names = {str: "text", int: "integer", float: "number", bool: "boolean", msgspec.Raw: "any JSON", dict: "object"}
    if type_ in names:
        return names[type_]
    if origin is dict:
        return "object"
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return f"`{type_.__name__}`"
    return describe_type(args[0]) if args else str(type_)


def table(struct: type[msgspec.Struct], docs: dict[str, dict[str, str]]) -> str:
    """One message as a heading, its sentence and a table of its fields."""
    config = struct.__struct_config__
    tag = f" (`{config.tag_field}`: `{config.tag}`)" if config.tag is not None else ""
    lines = [f"#### {struct.__name__}{tag}", "", (struct.__doc__ or "").strip().replace("\n    ", " "), ""]
    fields = msgspec.structs.fields(struct)
    if not fields:
        return "\n".join(lines)
    lines += ["| key | value | default | |", "|---|---|---|---|"]
    for field in fields:
        text = next(
            (docs[c.__name__][field.name] for c in struct.__mro__ if field.name in docs.get(c.__name__, {})), ""
        )
        default = "" if field.required else f"`{msgspec.json.encode(default_of(field)).decode()}`"
        lines.append(f"| `{field.encode_name}` | {describe_type(field.type)} | {default} | {' '.join(text.split())} |")
    return "\n".join([*lines, ""])


def default_of(field: Any) -> Any:
    """The value a missing key stands for."""
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return None if value is msgspec.UNSET else value


def render() -> str:
    """Everything between the markers."""
    docs = docs_of_fields()
    parts = ["", "### Conditions", "", "What a task waits for.", ""]
    parts += [table(struct, docs) for struct in get_args(messages.Condition)]
    parts += ["### Parts of messages", ""]
    inner = (messages.Fault, messages.OpenWait, messages.TaskState, messages.OpenCall, messages.Held)
    inner += (tool_messages.ToolTold,)
    parts += [table(struct, docs) for struct in inner]
    for title, side in (
        ("Sent by agents", messages.AGENT_MESSAGES),
        ("Sent by the supervisor", messages.SUPERVISOR_MESSAGES),
    ):
        for kind, type_ in side.items():
            parts += [f"### {title}: `{kind}`", ""]
            parts += [table(struct, docs) for struct in structs_of(type_)]
    return "\n".join(parts)


def test_the_page_holds_every_message_and_field():
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    current = f"{before}{BEGIN}\n{render()}\n{END}{after}"
    if os.environ.get("REWRITE_DOCS"):
        PAGE.write_text(current)
    assert PAGE.read_text() == current, (
        "run `REWRITE_DOCS=1 pytest tests/shape/test_protocol_doc.py` and read the change"
    )


def test_the_page_names_every_kind_and_limit():
    text = PAGE.read_text()
    for kind in Kind:
        assert f"| `{kind}` |" in text, f"kind {kind} has no row"
    for kind in AGENT_KINDS:
        to = "_" if kind in REPORTED_KINDS else "*"
        assert f"`crew.<run>.{kind}.<me>.{to}.*`" in text, f"the permission to publish {kind} is not on the page"
    for kind in RECEIVED_KINDS:
        assert f"`out.crew.<run>.{kind}.*.<me>.*`" in text, f"the permission to receive {kind} is not on the page"
    assert f"{codec.PAYLOAD_MAX_BYTES // 1024} KiB" in text
    assert f"{codec.NESTING_MAX} levels" in text


def test_the_exported_schema_covers_every_message():
    schemas = codec.schemas()
    for type_ in (*messages.AGENT_MESSAGES.values(), *messages.SUPERVISOR_MESSAGES.values()):
        for struct in structs_of(type_):
            assert struct.__name__ in schemas["$defs"]
