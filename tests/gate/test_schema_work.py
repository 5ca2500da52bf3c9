"""Schemas that ask for more work than there is time for are refused before anything is held to them."""

from typing import Any

import pytest

from crewkeeper_supervisor.gate.arguments import ArgumentCheck, SchemaRefused, check_schema
from crewkeeper_supervisor.gate.schema_work import CHAIN_MAX, NAMED_MAX


def _doubling(parts: int, how: str = "allOf", **fields: Any) -> dict[str, Any]:
    def twice(number: int) -> dict[str, Any]:
        return {how: [{"$ref": f"#/$defs/d{number}"}] * 2, **fields}

    defs: dict[str, Any] = {f"d{number}": twice(number + 1) for number in range(parts)}
    return {"$defs": defs | {f"d{parts}": {"type": "object"}}, **twice(0)}


def _disguised(bomb: dict[str, Any]) -> dict[str, Any]:
    """A bomb under the name of the schema of JSON Schema."""
    name = "https://json-schema.org/draft/2020-12/schema"
    return {"$defs": {"x": {"$id": name, **bomb}}, "properties": {"x": {"$ref": name}}}


def _within(bomb: dict[str, Any]) -> dict[str, Any]:
    """A bomb in a part with a name of its own, whose parts have harmless namesakes outside."""
    harmless = {name: {"type": "object"} for name in bomb["$defs"]}
    return {"$defs": harmless, "properties": {"x": {"$id": "https://x.example/inner", **bomb}}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (_doubling(40), "5000 parts"),
        (_doubling(40, "anyOf"), "5000 parts"),
        (_doubling(8, unevaluatedProperties=False), "5000 parts"),
        (
            {"type": "object", "properties": {"x": {"items": _doubling(1)}}, "$defs": _doubling(40)["$defs"]},
            "5000 parts",
        ),
        (_within(_doubling(40)), "5000 parts"),
        (_disguised(_doubling(40)), "5000 parts"),
        ({"$defs": {f"d{n}": {"$id": f"i{n}"} for n in range(NAMED_MAX)}}, f"{NAMED_MAX} of its parts"),
        ({"$ref": "#"}, "itself"),
        ({"not": {"$ref": "#"}}, "itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "itself"),
        ({"$dynamicAnchor": "x", "$dynamicRef": "#x"}, "itself"),
        (
            {
                "$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(CHAIN_MAX)} | {f"d{CHAIN_MAX}": {}},
                "$ref": "#/$defs/d0",
            },
            f"{CHAIN_MAX} parts",
        ),
    ],
    ids=["all", "any", "rest", "below", "within", "disguised", "named", "self", "not", "loop", "dynamic", "chain"],
)
def test_too_much_work_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaRefused, match=said):
        check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (_doubling(5), {}, 1),
        (
            {
                "$defs": {"n": {"properties": {"l": {"$ref": "#/$defs/n"}, "r": {"$ref": "#/$defs/n"}}}},
                "$ref": "#/$defs/n",
            },
            {"l": {"r": {}}},
            None,
        ),
        (
            {"properties": {"n": {"$id": "Node", "type": "object", "properties": {"next": {"$ref": "Node"}}}}},
            {"n": {"next": {"next": {}}}},
            {"n": {"next": {"next": 7}}},
        ),
        ({"properties": {"$ref": {"type": "string"}, "not": {"type": "string"}}}, {"$ref": "x"}, {"$ref": 7}),
        ({"$defs": {"a/b": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a~1b"}}}, {"x": "y"}, {"x": 1}),
        (
            {"$defs": {"a": {"$anchor": "s", "type": "string"}}, "properties": {"x": {"$ref": "#s"}}},
            {"x": "y"},
            {"x": 1},
        ),
        (
            {"properties": {"x": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}},
            {"x": {"type": "object"}},
            {"x": {"type": 7}},
        ),
        ({"properties": {"x": {"anyOf": [{"const": n} for n in range(300)]}}}, {"x": 7}, {"x": 300}),
        ({"properties": {"x": {"const": {"$ref": "#/nowhere"}}}}, {"x": {"$ref": "#/nowhere"}}, {"x": 1}),
    ],
    ids=["few", "tree", "id", "names", "pointer", "anchor", "foreign", "choices", "const"],
)
def test_what_people_write_is_not(schema: dict[str, Any], good: Any, bad: Any) -> None:
    checked = ArgumentCheck("t", schema)
    assert checked.check(good) is None
    if bad is not None:
        assert checked.check(bad) is not None
