import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_crewfile import FULL, MINIMAL, SAMPLE

from crewkeeper_supervisor.cli.starter import CREW_YAML
from crewkeeper_supervisor.shell.crew_format import CREW
from crewkeeper_supervisor.shell.crew_kinds import Key, Kind, Listing, Section, Table
from crewkeeper_supervisor.shell.crew_problems import CODES
from crewkeeper_supervisor.shell.crew_response_format import LADDER_KINDS, RESPONSES
from crewkeeper_supervisor.shell.crew_schema import describe, schema
from crewkeeper_supervisor.shell.crewfile import CrewFileError, parse

FOLDER = Path(__file__).parent
DOCUMENT = FOLDER.parents[1] / "docs" / "crew-file.md"
VALIDATOR = jsonschema.Draft202012Validator(schema())
FULL_SURFACE = yaml.safe_load(FULL)


def accepts_schema(surface: Any) -> bool:
    return bool(VALIDATOR.is_valid(surface))


def accepts_loader(surface: Any) -> bool:
    # yaml.dump quotes what YAML 1.1 would read otherwise, and writes no anchors for plain trees.
    try:
        parse(yaml.safe_dump(surface, sort_keys=False).encode(), "crew.yaml", FOLDER)
    except CrewFileError:
        return False
    return True


def sections(kind: Kind, path: str = "") -> list[tuple[str, Key]]:
    """Every key of the format with its path: `agents.*.run`."""
    match kind:
        case Section(keys=keys):
            return [
                pair for key in keys for pair in ((f"{path}{key.name}", key), *sections(key.kind, f"{path}{key.name}."))
            ]
        case Table(of=of):
            return sections(of, f"{path}*.")
        case Listing(of=of):
            return sections(of, f"{path.removesuffix('.')}[].")
    return []


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("text", [MINIMAL, SAMPLE, FULL, CREW_YAML])
def test_good_files_pass(text: str) -> None:
    VALIDATOR.validate(yaml.safe_load(text))


def section_of(surface: Any, section: str) -> Any:
    """The part of a file at the path of a section: `agents.*.restart`, `escalate[]`."""
    for step in section.split(".") if section else []:
        if step == "*":
            surface = surface[next(iter(surface))]
        else:
            surface = surface[step.removesuffix("[]")]
            surface = surface[0] if step.endswith("[]") else surface
    return surface


def every_section() -> Any:
    """A valid file that has every section."""
    surface = copy.deepcopy(FULL_SURFACE)  # reading the text takes longer than all that is tried with it
    surface["budget"] = {}
    surface["responses"] = {path.split(".")[1]: {} for path in SECTIONS if path.startswith("responses.")}
    surface["responses"]["deadlock"]["repeat"] = {}
    return surface


SECTIONS = sorted({path.rpartition(".")[0] for path, _ in sections(CREW)})


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_is_refused_by_both_in_every_section(section: str) -> None:
    surface = every_section()
    assert accepts_schema(surface)
    assert accepts_loader(surface)
    section_of(surface, section)["unknown"] = "x"
    assert not accepts_schema(surface)
    assert not accepts_loader(surface)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2000),
    st.sampled_from([0.5, 0.04, 1e9, 2**60]),
    st.sampled_from(
        ["", "x", "a", "on", "60s", "400k", "1MiB", "chain", "warn", "permanent", "-1", "1:30", "${A}", "a b"]
    ),
    st.just([]),
    st.just({}),
    st.lists(st.sampled_from(["a", "b", "warn", "x y", "t"]), max_size=2),
)


@settings(max_examples=400, deadline=None)
@given(path=st.sampled_from([path for path, _ in sections(CREW)]), value=VALUES)
def test_what_the_schema_refuses_the_loader_refuses(path: str, value: Any) -> None:
    surface = every_section()
    section, _, name = path.rpartition(".")
    section_of(surface, section)[name] = value
    if not accepts_schema(surface):
        assert not accepts_loader(surface)


def documented() -> dict[str, tuple[str, str]]:
    """Key to (kind, default) as the tables of the documentation have them."""
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \| (.*?) \| .+ \|$", text, re.MULTILINE)
    assert len(rows) == len({key for key, _, _ in rows}), "a key is documented twice"
    return {key: (kind, default) for key, kind, default in rows}


def expected() -> dict[str, tuple[str, str]]:
    """What the tables must have: shared sections (restart, budget, one response) are documented once."""
    found: dict[str, tuple[str, str]] = {}
    for path, key in sections(CREW):
        shared = re.sub(r"^agents\.\*\.(?:task_)?(restart|budget)\.", r"\1.", path)
        shared = re.sub(
            r"^responses\.\w+\.(?=(confirm|lasting|do|shadow|climb|cool_down|hold)$)", "responses.*.", shared
        )
        if shared == "responses.*.do":
            found[shared] = ("list of actions", "by kind, above")
        elif shared in ("responses.*.climb", "responses.*.cool_down"):
            found[shared] = (describe(key.kind), "by kind, in [responses.md](responses.md#defaults)")
        else:
            found[shared] = (describe(key.kind), key.default)
    return found


def test_the_documentation_has_every_key_with_its_kind_and_default_and_no_other() -> None:
    rows = {key: (kind.replace("`", ""), default.replace("`", "")) for key, (kind, default) in documented().items()}
    assert rows == {
        key: (kind.replace("`", ""), default.replace("`", "")) for key, (kind, default) in expected().items()
    }


def test_the_documentation_has_the_ladder_of_every_kind() -> None:
    text = DOCUMENT.with_name("responses.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| `(\[.+?\])` \| `(\w+)` \| `(\w+)` \|", text, re.MULTILINE)
    kinds = {key.name: key.kind for key in RESPONSES.keys if key.name in LADDER_KINDS}
    ladders = [
        [name, *(section.find(key).default for key in ("do", "climb", "cool_down"))] for name, section in kinds.items()
    ]  # type: ignore[union-attr]
    assert [list(row) for row in rows] == ladders


def test_the_documentation_has_every_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert dict(re.findall(r"^- `(CREW-\d+)` (.+)$", text, re.MULTILINE)) == CODES


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL))
def test_the_examples_of_the_documentation_load(block: str) -> None:
    crew = parse(block.encode(), "crew.yaml", FOLDER).crew
    assert crew.agents
