"""Which tool a name is, for whom, and the answers when it is none."""

import pytest

from crewkeeper_supervisor.core.tools import Tool
from crewkeeper_supervisor.gate.arguments import BadArguments, SchemaRefused
from crewkeeper_supervisor.gate.registry import Registry, ToolEntry, UnknownTool, names_of

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def made() -> Registry:
    tools = {
        "search": Tool(function="m:search", cost_microusd=10, description="from the file"),
        "files": Tool(mcp=("server",)),
        "convert": Tool(command=("convert",), schema=TEXT, args_bytes=100),
        "browse": Tool(inside=True),
    }
    registry = Registry(tools, {"reader": ["search", "files.read_*"], "all": ["*"], "host": ["files", "convert"]})
    registry.add("search", description="from the code", schema=TEXT)
    registry.add("files", name="read_file", schema=TEXT)
    registry.add("files", name="write_file", schema=TEXT)
    return registry


def test_each_role_has_its_tools():
    registry = made()
    assert names_of(registry.allowed_to("reader")) == ["files.read_file", "search"]
    assert names_of(registry.allowed_to("host")) == ["convert", "files.read_file", "files.write_file"]
    assert names_of(registry.allowed_to("all")) == [
        "browse",
        "convert",
        "files.read_file",
        "files.write_file",
        "search",
    ]
    assert registry.allowed_to("stranger") == ()


def test_a_name_is_its_tool():
    entry = made().find("reader", "search")
    assert isinstance(entry, ToolEntry)
    assert (entry.source, entry.cost_microusd, entry.description, entry.declared) == (
        "function",
        10,
        "from the file",
        "search",
    )


@pytest.mark.parametrize(
    "name", ["serch", "Search", "search ", "files.read-file", "files.write_file", "files", "", "x" * 5000]
)
def test_a_near_miss_is_refused_and_never_repaired(name: str):
    answer = made().find("reader", name)
    assert isinstance(answer, UnknownTool)
    assert answer.available == ("files.read_file", "search")
    assert len(answer.text()) < 300
    assert "nothing was executed" in answer.text()


def test_near_names_are_told_best_first():
    assert made().find("reader", "serch").near == ("search",)  # type: ignore[union-attr]
    assert made().find("all", "files.red_file").near[0] == "files.read_file"  # type: ignore[union-attr]
    # What it may not use is not told of, either.
    assert "write_file" not in made().find("reader", "files.write_fil").text()  # type: ignore[union-attr]


def test_whoever_has_no_tools_is_told_so():
    assert "No tools" in made().find("stranger", "search").text()  # type: ignore[union-attr]


def test_many_tools_are_counted():
    registry = Registry({"m": Tool(mcp=("x",))}, {"a": ["m"]})
    for number in range(70):
        registry.add("m", name=f"t{number}", schema=None)
    answer = registry.find("a", "none")
    assert isinstance(answer, UnknownTool)
    assert (len(answer.available), answer.omitted) == (50, 20)
    assert "and 20 more" in answer.text()


def test_name_and_arguments_are_checked_in_one():
    registry = made()
    assert isinstance(registry.check("reader", "search", {"text": "x"}), ToolEntry)
    assert isinstance(registry.check("reader", "search", {}), BadArguments)
    assert isinstance(registry.check("reader", "nothing", {}), UnknownTool)
    assert isinstance(registry.check("host", "convert", {"text": "x" * 200}), BadArguments)
    assert isinstance(registry.check("all", "browse", {"whatever": 1}), ToolEntry)


def test_a_pin_changes_with_what_models_are_told():
    def pin(**keys: object) -> str:
        registry = Registry({"m": Tool(mcp=("x",))}, {})
        return registry.add("m", **{"name": "t", "description": "d", "schema": TEXT, **keys}).pin  # type: ignore[arg-type]

    pins = {pin(), pin(description="e"), pin(schema={**TEXT, "required": []}), pin(name="u"), pin(schema=None)}
    assert len(pins) == 5
    assert pin() == pin(schema=dict(reversed(TEXT.items())))


def test_a_source_can_be_taken_out_and_a_bad_schema_is_not_taken_in():
    registry = made()
    registry.remove("files")
    assert names_of(registry.allowed_to("all")) == ["browse", "convert", "search"]
    with pytest.raises(SchemaRefused):
        registry.add("files", name="evil", schema={"$ref": "http://127.0.0.1/x"})
    assert isinstance(registry.find("all", "files.evil"), UnknownTool)
    with pytest.raises(KeyError):
        registry.add("nobody", schema=None)


def test_a_server_inside_an_agent_is_declared_as_a_whole() -> None:
    whole = Registry({"fs": Tool(inside=True), "one": Tool(inside=True, schema={"type": "object"})}, {"desk": ("fs",)})
    found = whole.find("desk", "fs.read_file")
    assert isinstance(found, ToolEntry)
    assert (found.name, found.declared, found.source) == ("fs.read_file", "fs", "inside")
    assert isinstance(whole.find("other", "fs.read_file"), UnknownTool)
    for name in ("fs.", "fs.a b", "fs." + "x" * 129, "one.read_file", "sf.read_file"):
        assert isinstance(whole.find("desk", name), UnknownTool), name


def test_what_is_said_to_be_there_follows_every_change():
    registry = made()

    def told(role: str) -> tuple[str, ...]:
        answer = registry.find(role, "nothing")
        assert isinstance(answer, UnknownTool)
        return answer.available

    assert told("reader") == ("files.read_file", "search")
    registry.add("files", name="read_dir", schema=TEXT)
    assert told("reader") == ("files.read_dir", "files.read_file", "search")
    registry.remove("files")
    assert told("reader") == ("search",)
    registry.allow("reader", ["convert"])
    assert told("reader") == ("convert",)
    registry.tell(())
    assert told("reader") == ()
    assert not registry.has("reader", "convert")
