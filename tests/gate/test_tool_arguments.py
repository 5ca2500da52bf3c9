"""Arguments against schemas: all mistakes at once, with paths; schemas that are refused."""

import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crewkeeper_supervisor.gate.arguments import ArgumentCheck, BadArguments, SchemaRefused, check_schema

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "pattern": "^[a-z/]+$", "maxLength": 20},
        "lines": {"type": "integer", "minimum": 1},
        "mode": {"enum": ["r", "w"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "where": {"$ref": "#/$defs/Where"},
    },
    "required": ["path"],
    "additionalProperties": False,
    "$defs": {
        "Where": {
            "type": "object",
            "properties": {"x": {"type": "number"}},
            "required": ["x"],
            "additionalProperties": False,
        }
    },
}


def refused(args: Any, schema: dict[str, Any] | None = SCHEMA, **options) -> BadArguments:
    answer = ArgumentCheck("read", schema, **options).check(args)
    assert answer is not None
    assert answer.tool == "read"
    return answer


def told(args: Any) -> dict[str, str]:
    return {problem.path: problem.message for problem in refused(args).problems}


def test_what_fits_is_accepted():
    check = ArgumentCheck("read", SCHEMA)
    assert check.check({"path": "a/b"}) is None
    assert check.check({"path": "a", "lines": 3, "mode": "w", "tags": ["x"], "where": {"x": 1.5}}) is None


def test_every_mistake_is_told_with_its_path():
    found = told(
        {"path": "A" * 30, "lines": "3", "mode": "rw", "tags": ["x", 1, None], "where": {"y": 1}, "pth": 1, "zzz": 2}
    )
    assert set(found) == {"path", "lines", "mode", "tags[1]", "tags[2]", "where", "where.x", ""}
    assert found["lines"] == "must be integer, is string"
    assert found["tags[2]"] == "must be string, is null"
    assert found["where.x"] == "is required and missing"
    assert found["where"] == "'y' is no argument; did you mean 'x'?" or found["where"] == "'y' is no argument"
    assert "'pth' is no argument; did you mean 'path'?" in found[""]
    assert "'zzz' is no argument" in found[""]
    assert '"r" or "w"' in found["mode"]


def test_a_missing_argument_is_named():
    assert told({}) == {"path": "is required and missing"}


def test_the_answer_says_what_is_expected_and_can_be_read():
    answer = refused({"lines": 0})
    text = answer.text()
    assert "nothing was executed" in text
    assert "- path: is required and missing" in text
    assert '"pattern":"^[a-z/]+$"' in text


def test_values_are_not_repeated_at_length():
    answer = refused({"path": "Z" * 5000})
    assert all(len(problem.message) < 100 for problem in answer.problems)
    assert "ZZZ" not in answer.text()


@pytest.mark.parametrize("args", [None, [], "path", 3, [{"path": "a"}]])
def test_arguments_are_a_mapping(args: Any):
    assert "mapping" in refused(args).problems[0].message
    assert "mapping" in refused(args, None).problems[0].message


def test_size_is_limited_before_anything_else_looks_at_it():
    answer = refused({"path": "a" * 1_000_000}, limit_bytes=1000)
    assert len(answer.problems) == 1
    assert "1000011 bytes; the limit is 1000" in answer.problems[0].message
    assert ArgumentCheck("read", None, limit_bytes=100).check({"anything": ["goes"]}) is None


def test_depth_is_limited():
    tower: Any = 1
    for _ in range(100):
        tower = [tower]
    assert "deeper" in refused({"path": tower}).problems[0].message


@pytest.mark.parametrize("value", [{1, 2}, object(), 2**70, "\ud800"])
def test_what_json_does_not_have_is_refused(value: Any):
    assert refused({"path": value}).problems


def test_more_problems_than_anybody_reads_are_counted():
    answer = refused({"path": "a", "tags": list(range(50))})
    assert (len(answer.problems), answer.omitted) == (20, 30)
    assert "and 30 more" in answer.text()


def test_a_hostile_pattern_runs_in_linear_time():
    evil = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}
    assert refused({"x": "a" * 50_000 + "!"}, evil).problems


@pytest.mark.parametrize(
    ("schema", "message", "remedy"),
    [
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "127.0.0.1", "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "passwd", "nothing is fetched"),
        ({"$ref": "#/$defs/none"}, "none", "2020-12"),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "regex", "look-around"),
        ({"properties": {"a": {"pattern": "(a{1,1000}){1,1000}"}}}, "regex", "look-around"),
        ({"properties": {"a": {"type": "strng"}}}, "properties.a.type", "2020-12"),
        ({"description": "x" * 300_000}, "bytes", "shorten"),
        ({"default": object()}, "JSON", "JSON"),
    ],
)
def test_schemas_that_cannot_be_used_are_refused(schema: dict[str, Any], message: str, remedy: str):
    with pytest.raises(SchemaRefused) as caught:
        check_schema(schema)
    assert message in str(caught.value)
    assert remedy in caught.value.remedy


def test_nobody_is_asked_for_what_a_schema_refers_to():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with pytest.raises(SchemaRefused):
            check_schema({"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"})
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_tower_of_a_schema_is_refused():
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"properties": {"a": schema}}
    with pytest.raises(SchemaRefused, match="nested"):
        check_schema(schema)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(args=st.dictionaries(st.sampled_from(["path", "lines", "mode", "tags", "where", "x"]), JSON))
def test_nothing_that_is_sent_raises(args: dict[str, Any]):
    answer = ArgumentCheck("read", SCHEMA).check(args)
    if answer is not None:
        assert answer.problems
        assert answer.text()
    if not isinstance(args.get("path"), str):
        assert answer is not None


@pytest.mark.parametrize("values", [200, 201, 16_000])
def test_mistakes_are_told_all_at_once_or_one_at_a_time_where_there_are_many_values(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"type": "object", "properties": {"xs": {"type": "array", "items": {"type": "integer"}}}}
    check, looked_at = ArgumentCheck("t", schema), list[Any]()
    plain = ArgumentCheck._problem

    def counted(self: ArgumentCheck, error: Any, args: Any) -> Any:
        looked_at.append(error)
        return plain(self, error, args)

    monkeypatch.setattr(ArgumentCheck, "_problem", counted)
    wrong = check.check({"xs": ["a"] * (values - 1)})  # and the list itself
    assert wrong is not None
    few = values == 200
    assert len(looked_at) == (199 if few else 1)
    assert ("there may be more" in wrong.text()) != few
    assert "xs[0]: must be integer, is string" in wrong.text()
