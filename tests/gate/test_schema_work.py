"""Schemas that ask for more work than there is time for are refused before anything is held to them."""

import contextlib
from typing import Any

import pytest

from crewkeeper_supervisor.gate import arguments
from crewkeeper_supervisor.gate.arguments import ArgumentCheck, SchemaRefused, check_schema, misfits
from crewkeeper_supervisor.gate.schema_work import CHAIN_MAX, NAMED_MAX, Work


def _doubling(parts: int, how: str = "allOf", **fields: Any) -> dict[str, Any]:
    def twice(number: int) -> dict[str, Any]:
        return {how: [{"$ref": f"#/$defs/d{number}"}] * 2, **fields}

    defs: dict[str, Any] = {f"d{number}": twice(number + 1) for number in range(parts)}
    return {"$defs": defs | {f"d{parts}": {"type": "object"}}, **twice(0)}


def _ladder(steps: int) -> dict[str, Any]:
    """Each step holds what is within a value to the next one twice."""
    twice = ({"type": "object", "patternProperties": dict.fromkeys(("^c", "c$"), _def(n + 1))} for n in range(steps))
    return {"$defs": {f"d{number}": step for number, step in enumerate(twice)} | {f"d{steps}": {}}, **_def(0)}


def _def(number: int) -> dict[str, str]:
    return {"$ref": f"#/$defs/d{number}"}


def _sums() -> dict[str, Any]:
    """Expressions of two kinds, made of expressions."""
    made: dict[str, Any] = {
        kind: {"type": "object", "properties": {"op": {"const": kind}, "of": _def(0)}, "required": ["of"]}
        for kind in ("plus", "times")
    }
    any_ = [{"type": "integer"}, *({"$ref": f"#/$defs/{kind}"} for kind in made)]
    return {"$defs": made | {"d0": {"anyOf": any_}}, "properties": {"of": _def(0)}}


def _nested(depth: int, leaf: Any) -> Any:
    return {"of": _nested(depth - 1, leaf)} if depth else leaf


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
        (_ladder(40), "5000 parts"),
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
    ids=[
        "all",
        "any",
        "rest",
        "below",
        "within",
        "ladder",
        "disguised",
        "named",
        "self",
        "not",
        "loop",
        "dynamic",
        "chain",
    ],
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


def test_what_is_wrong_deep_inside_is_told_as_far_as_there_is_time() -> None:
    checked = ArgumentCheck("t", _sums())
    assert checked.check(_nested(60, 7)) is None
    for depth, said in ((3, "not valid under any"), (60, "nest it less")):  # ways to it: 2 to the power of that
        wrong = checked.check(_nested(depth, "x"))
        assert wrong is not None
        assert said in wrong.text()
        assert said in misfits(_sums(), _nested(depth, "x"))[0]


def test_ways_to_a_value_are_counted_by_its_place() -> None:
    kinds = [{"properties": {f"p{n}": {"$ref": "#/$defs/d0"}}} for n in range(9)]
    beside, above = Work({"$defs": {"d0": {"allOf": kinds}}, **_def(0)}), Work(_sums())
    assert beside.to_tell(60) == beside.to_tell(0)
    assert above.to_tell(9) == 2 * above.to_tell(8) == 4 * above.to_tell(7)


def test_a_schema_on_which_the_library_gives_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it raises then is no `Exception`, and would end whoever decides on calls."""
    twice = {"items": {"$id": "y", "$ref": "#x"}, "$defs": {"a": {"$id": "y", "$anchor": "x"}}}
    with pytest.raises(SchemaRefused, match="given it up"):
        check_schema(twice)
    checked = ArgumentCheck("t", {"required": ["x"]})
    for raised, told in ((type("Panic", (BaseException,), {"__module__": "pyo3_runtime"}), True), (SystemExit, False)):

        def give_up(_extent: Any, raised: Any = raised) -> Any:
            raise raised

        monkeypatch.setattr(arguments, "_extent", give_up)
        with contextlib.suppress(SystemExit):
            wrong = checked.check({})
            assert told
            assert wrong is not None
            assert "given it up" in wrong.text()
