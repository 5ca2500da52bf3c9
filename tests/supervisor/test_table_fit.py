"""Tables on a terminal, however narrow: nothing wider than it, no name or number broken, nothing left out."""

import io

import pytest
from rich.console import Console

from crewkeeper_supervisor.views.tables import Table, fitted_lines, plain_lines, rich_table

PROSE = "crasher crashed more than 1 times within 60 s; its host has stopped restarting it"
TABLE = Table(
    columns=("INCIDENT", "RUN", "KIND", "AGENTS UP", "AGE", "WHAT"),
    rows=(
        ("F28-0", "nightly-a04bb0", "restart_intensity", "7/8", "3m39s ago", PROSE),
        ("F1325-0", "nightly-a04bb0", "deadlock", "-", "12s ago", "deadlock: right → left → right"),
    ),
)


def shown(width, table=TABLE):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(rich_table(table))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 140, 200])
def test_a_table_fits_and_breaks_no_name(width):
    lines = shown(width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for cell in ("F28-0", "F1325-0", "nightly-a04bb0", "restart_intensity", "7/8", "deadlock", "right"):
        assert cell in text
    assert all(word in text.split() for word in PROSE.split())


def test_where_there_is_room_it_is_a_table_of_single_lines():
    head, _, *rows = shown(160)
    assert head.split() == " ".join(TABLE.columns).split()
    assert [" ".join(row.split()) for row in rows] == [" ".join(line.split()) for line in plain_lines(TABLE)[1:]]


def test_where_there_is_little_words_are_wrapped():
    lines = shown(100)
    assert lines[0].split()[0] == "INCIDENT"
    assert any("F28-0" in line and "nightly-a04bb0" in line and "restart_intensity" in line for line in lines)
    assert len(lines) > len(shown(160))


def test_where_there_is_hardly_any_each_row_is_a_paragraph():
    lines = [line.rstrip() for line in shown(60)]
    assert lines[0] == "F28-0"
    assert lines[1].startswith("  RUN nightly-a04bb0  KIND restart_intensity")
    second = lines[lines.index("F1325-0") :]
    assert "AGENTS UP" not in " ".join(second), "what is not there is not told"


@pytest.mark.parametrize("width", [24, 40, 60, 78, 100])
def test_a_table_on_a_page_of_text_fits_too(width):
    lines = fitted_lines(TABLE, width)
    assert max(map(len, lines)) <= width
    assert lines == [line.rstrip() for line in shown(width)]


@pytest.mark.parametrize("width", [None, 200])
def test_with_room_a_table_on_a_page_is_as_it_is_when_piped(width):
    assert fitted_lines(TABLE, width) == plain_lines(TABLE)
