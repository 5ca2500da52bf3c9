"""Detectors from elsewhere: functions of users, optional packages, and texts that one cannot look through."""

import msgspec
import pytest

from crewkeeper_bus import detectors
from crewkeeper_bus.detectors import DetectorMissing, kind_of
from crewkeeper_bus.outgoing_redaction import check_words
from crewkeeper_bus.redaction import Redactor

KEY = b"k" * 32


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A module of the user with several detectors."""
    (tmp_path / "badges.py").write_text(
        "import re\n"
        "def find(text):\n"
        "    return [(m.start(), m.end(), 'Badge-No.') for m in re.finditer('B[0-9]{4}', text)]\n"
        "def breaks(text):\n"
        "    raise RuntimeError('oh')\n"
        "def beyond(text):\n"
        "    return [(0, len(text) + 1, 'x')]\n"
        "def shapeless(text):\n"
        "    return ['x']\n"
        "nothing = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    detectors.load.cache_clear()
    yield
    detectors.load.cache_clear()


def test_a_function_of_the_user_finds_beside_the_patterns(found):
    redactor = Redactor(KEY, ("secrets", "badges:find"))
    text, places = redactor.text("badge B1234, token ghp_" + "a1B2" * 9)
    assert [each.kind for each in places] == ["badge_no", "github_token"]
    assert "B1234" not in text
    raw, places = redactor.json(msgspec.json.encode({"note": ["hello B9876 hello"], "B5555 and": 1}))
    assert {each.kind for each in places} == {"badge_no"}
    assert b"B9876" not in raw
    assert b"B5555" not in raw
    assert redactor.text(text)[0] == text, "twice changes nothing"
    assert redactor.json(b'{"a":"nothing here"}') == (b'{"a":"nothing here"}', [])


@pytest.mark.parametrize("name", ["breaks", "beyond", "shapeless"])
def test_what_cannot_be_looked_through_is_replaced_as_a_whole(found, name):
    text, places = Redactor(b"", (f"badges:{name}",)).text("long enough to look at")
    assert text == "[redacted:detector_failed]"
    assert len(places) == 1


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("nowhere_at_all:find", "nowhere_at_all"),
        ("badges:missing", "missing"),
        ("badges:nothing", "is no function"),
    ],
)
def test_one_that_is_not_there_is_named(found, word, why):
    with pytest.raises(DetectorMissing, match=why):
        Redactor(KEY, (word,))


@pytest.mark.parametrize(("word", "extra"), [("kingfisher", "secrets"), ("datafog", "pii")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch, word, extra):
    detectors.load.cache_clear()
    monkeypatch.setattr(detectors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DetectorMissing, match=rf"not installed: pip install 'crewkeeper\[{extra}\]'"):
        Redactor(KEY, (word,))
    detectors.load.cache_clear()


def test_words_are_checked_where_they_are_given():
    assert check_words(("secrets", "kingfisher", "my.own:find")) == ""
    assert "nothing to redact" in check_words(("kingfischer",))
    assert "nothing to redact" in check_words(("my own:find",))
    with pytest.raises(ValueError, match="nothing to redact"):
        Redactor(KEY, ("os.system",))


@pytest.mark.parametrize(
    ("name", "kind"), [("US_SSN", "us_ssn"), ("aws.key-1", "aws_key"), ("1", "found"), ("Ä" * 50, "found")]
)
def test_kinds_fit_into_placeholders(name, kind):
    assert kind_of(name) == kind
    assert Redactor.is_placeholder(Redactor(KEY).placeholder(kind_of(name), "x"))


def test_kingfisher_knows_providers_that_the_patterns_do_not():
    pytest.importorskip("kingfisher_sdk", reason="the extra `secrets` is not installed")
    token = "lin_api_" + "x9Kf2mQ8vLp3RtY7wZ1aB4cD6eF0gH5jN8sU2iO4"
    told = f"é \ud800 {token} ü"
    assert token in Redactor(KEY, ("secrets",)).text(told)[0]
    text, places = Redactor(KEY, ("secrets", "kingfisher")).text(told)
    assert [each.kind for each in places] == ["linear_api_key"]
    assert text.startswith("é \ud800 [redacted:")
    assert text.endswith(" ü")


def test_datafog_knows_numbers_of_persons_and_leaves_the_rest():
    pytest.importorskip("datafog_core", reason="the extra `pii` is not installed")
    plain = "meet on 1980-02-03 at 10.0.0.1, zip 94110, order 536904399, v1.2.3"
    text, places = Redactor(KEY, ("datafog",)).text(f"é ssn 536-90-4399; {plain}")
    assert [each.kind for each in places] == ["ssn"]
    assert text.endswith(plain)
