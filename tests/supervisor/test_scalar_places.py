"""A place inside of a YAML value is a place in the file."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crewkeeper_supervisor.shell.scalar_places import locate


def scalar(text: str) -> tuple[tuple[int, int], str]:
    """Where the value of `k` begins, and the value."""
    root = yaml.compose(text)
    node = root.value[0][1]
    return (node.start_mark.line + 1, node.start_mark.column + 1), node.value


def char_at(text: str, place: tuple[int, int]) -> str:
    return text.split("\n")[place[0] - 1][place[1] - 1 :][:1]


@pytest.mark.parametrize(
    "text",
    [
        "k: abc @ def",
        "k:   'it''s @ here'",
        'k: "tab\\t \\u00e9 \\x41 \\" @ x"',
        "k: abc\n  def\n\n  ghi @ j",
        "k: >-\n  abc\n  def @ ghi",
        "k: |\n  abc\n    def @ ghi\n",
        "k: |2\n  abc\n\n  d @ e\n",
        "k: >\n\n    abc\n    d @ e\n",
        "x: 1\nk: 'abc\n\n  d @ e'".replace("x: 1\n", ""),
        "{k: a @ b, l: 1}",
        "k: 'é😀 @ x'",
    ],
)
def test_the_place_of_a_character(text: str):
    start, value = scalar(text)
    assert char_at(text, locate(text, start, value, value.index("@"))) == "@"


def test_the_end_has_a_place_and_nonsense_has_the_start():
    assert locate("k: abc", (1, 4), "abc", 3) == (1, 7)
    assert locate("k: abc", (1, 4), "other", 2) == (1, 4)
    assert locate("k: abc", (9, 9), "abc", 0) == (9, 9)
    assert locate("k: abc", (1, 4), "abcdef", 5) == (1, 4)


@settings(max_examples=300, deadline=None)
@given(
    value=st.text(st.sampled_from("ab '\"\\\n\té:#|"), min_size=1, max_size=20),
    style=st.sampled_from([None, "'", '"', "|", ">"]),
    width=st.integers(5, 40),
)
def test_every_character_is_found_or_the_start_is_told(value: str, style: str, width: int):
    text = yaml.safe_dump({"k": value}, default_style=style, width=width, allow_unicode=True)
    if not text.startswith(("k", '"k"', "'k'")):
        return
    start, read = scalar(text)
    for offset, char in enumerate(read):
        place = locate(text, start, read, offset)
        line = text.split("\n")[place[0] - 1]
        assert 1 <= place[1] <= len(line) + 1
        if place != start and char.isalpha():
            assert line[place[1] - 1] in (char, "\\")
