"""Redaction: what is found, what only looks alike, what it costs, and that doing it twice changes nothing."""

import base64
import binascii
import hmac
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crewkeeper_bus import personal_patterns, secret_patterns
from crewkeeper_bus.redaction import CLASSES, FIELD, KINDS, MAX_DEPTH, Redactor, TooDeep

KEY = b"0123456789abcdef"
REDACTOR = Redactor(KEY)


def b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def nkey_seed() -> str:
    """A seed of a NATS user: prefix, 32 bytes, CRC-16."""
    body = bytes([0x95, 0x00]) + bytes(range(32))
    raw = body + binascii.crc_hqx(body, 0).to_bytes(2, "little")
    return base64.b32encode(raw).decode().rstrip("=")


# Put together here, so that nobody who scans this file for secrets finds one.
A20, A36, A48 = (
    "aB3dE6gH9jK2mN5pQ8sT",
    "aB3dE6gH9jK2mN5pQ8sTaB3dE6gH9jK2mN5p",
    "aB3dE6gH9jK2mN5pQ8sTaB3dE6gH9jK2mN5pQ8sTaB3dE6gH",
)
HEX32 = "0123456789abcdef" * 2
JWT = f"{b64({'alg': 'HS256', 'typ': 'JWT'})}.{b64({'sub': '1'})}.{A36}"
SECRETS = {
    "aws_key": "AK" + "IAIOSFODNN7EXAMPLE",
    "anthropic_key": "sk-" + "ant-api03-" + A48 + A36 + "AA",
    "openrouter_key": "sk-" + "or-v1-" + HEX32 * 2,
    "openai_key": "sk-" + "proj-" + A48,
    "github_token": "gh" + "p_" + A36,
    "gitlab_token": "gl" + "pat-" + A20,
    "slack_token": "xox" + "b-123456789012-123456789012-" + A20,
    "google_key": "AI" + "za" + A36[:35],
    "google_token": "ya" + "29." + A48,
    "google_secret": "GOC" + "SPX-" + A36[:28],
    "stripe_key": "sk" + "_live_" + A20,
    "webhook_secret": "wh" + "sec_" + A36,
    "huggingface_token": "hf" + "_" + A36[:34],
    "sendgrid_key": "SG" + "." + A36[:22] + "." + (A36 + A20)[:43],
    "npm_token": "np" + "m_" + A36,
    "pypi_token": "py" + "pi-AgEIcHlwaS5vcmc" + A48,
    "twilio_key": "S" + "K" + HEX32,
    "digitalocean_token": "dop" + "_v1_" + HEX32 * 2,
    "shopify_token": "shp" + "at_" + HEX32,
    "groq_key": "gs" + "k_" + (A48 + A20)[:52],
    "xai_key": "xa" + "i-" + (A48 + A36)[:80],
    "replicate_token": "r" + "8_" + (A36 + "7"),
    "telegram_token": "123456789" + ":AA" + A36[:33],
    "vault_token": "hv" + "s." + A36,
    "age_key": "AGE-SECRET-" + "KEY-1" + ("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 2)[:58],
    "nats_seed": nkey_seed(),
    "jwt": JWT,
}
PERSONAL = {
    "email": ["bob@example.com", "bob.o-hara+x@mail.example.co.uk"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "NO9386011117947", "FR1420041010050500013M02606"],
    "card": ["4111 1111 1111 1111", "5555555555554444", "3782 822463 10005", "6011-1111-1111-1117", "30569309025904"],
    "phone": ["+49 171 1234567", "+1 (555) 234-5678", "+4915112345678", "(555) 234-5678", "+44 20 7946 0958"],
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("around", ["{}", "use {} now", 'key="{}"', "({}),", "a: {}\nb", "https://x.example/?k={}&y=1"])
def test_secrets_are_found_wherever_they_stand(kind: str, around: str):
    secret = SECRETS[kind]
    text, found = REDACTOR.text(around.format(secret))
    assert secret not in text
    assert kind in {each.kind for each in found}
    # Nothing of it is left, not even half.
    assert secret[8:-8] not in text
    assert REDACTOR.text(text) == (text, [])


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in PERSONAL.items() for value in values])
@pytest.mark.parametrize("around", ["{}", "call {}, please", '"{}"', "<{}>", "it is {}."])
def test_personal_data_is_found(kind: str, value: str, around: str):
    text, found = REDACTOR.text(around.format(value))
    assert [each.kind for each in found] == [kind]
    assert text.count("[redacted:") == 1
    assert text == around.format(REDACTOR.placeholder(kind, value))


@pytest.mark.parametrize(
    ("text", "gone", "kept"),
    [
        ("postgres://ann:s3cret@db.example:5432/x", "s3cret", "postgres://ann:"),
        ("redis://:s3cret@localhost/0", "s3cret", "redis://"),
        ("amqp://u:p%40ss@h", "p%40ss", "@h"),
        ("Authorization: Bearer " + A36, A36, "Authorization: Bearer "),
        ("Authorization: Basic " + base64.b64encode(b"ann:pw").decode(), "YW5u", "Basic "),
        ("password=hunter22 next", "hunter22", " next"),
        ('"api_key": "x7y8z9a1"', "x7y8z9a1", '"api_key"'),
        ("DB_PASSWORD: Tr0ub4dor&3", "Tr0ub4dor", "DB_PASSWORD: "),
        ("AccountKey=" + A48 + A36 + "==;Endpoint=x", A48, ";Endpoint=x"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE1", "wJalrXUt", "aws_secret"),
        ("hooks.slack.com/services/T00000000/B00000000/" + A20, A20, "hooks.slack.com/services/"),
        (f"-----BEGIN EC PRIVATE KEY-----\n{A48}\n{A48}\n-----END EC PRIVATE KEY-----\nafter", A48, "after"),
        (f"-----BEGIN PRIVATE KEY-----\\n{A48}\\n{A48}\\n-----END PRIVATE KEY-----", A48, "-----END"),
        ("Telefon: 0171 1234567", "1234567", "Telefon: "),
    ],
)
def test_credentials_in_running_text(text: str, gone: str, kept: str):
    cleaned, found = REDACTOR.text(text)
    assert found
    assert gone not in cleaned
    assert kept in cleaned
    assert REDACTOR.text(cleaned) == (cleaned, [])


LOOK_ALIKES = [
    "550e8400-e29b-41d4-a716-446655440000",
    "41111111-1111-1111-1111-111111111111",
    "12345678-1234-4123-8123-123456789012",
    "d41d8cd98f00b204e9800998ecf8427e",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "2026-11-22T15:00:00.123456Z",
    "2026-11-22 15:00:00+02:00",
    "1795359600",
    "1795359600123",
    "1795359600123456",
    "1795359600123456789",
    "order 1234567890123456 of 2026",
    "order 4111111111111112",
    "invoice 2026-000123-4567",
    "4111 1111 1111 1112",
    "192.168.100.200:8080",
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "00:1A:2B:3C:4D:5E",
    "git@github.com:example/project.git",
    "icon@2x.png",
    "@example/package@1.2.3",
    "user@localhost",
    "a @ b . com",
    "DE89 3704 0044 0532 0130 01",
    "AB12 CDEF 3456 GHIJ",
    "EN10 2045 ISO9 0012",
    "3.14159265358979323846",
    "-1234567.8901234",
    "1e+10 + 12 = 10000000012",
    "x+1234567",
    "+1 for this",
    "12:30:45.678",
    "v1.2.3-rc.4+build.5678",
    "password: required",
    "the password is secret",
    "password=${DB_PASSWORD}",
    "password = os.environ.get",
    "secret: <your secret here>",
    "what is kept of a secret: SHA-256 in hex",
    "api_key=********",
    "api_key: null",
    "token: next",
    "max_tokens: 4000000",
    "secret_key = config.auth.key2",
    "sk-learn and sk-something-else",
    "task-1234567890abcdefghij1234567890",
    "risk-assessment-2026-11-22-final-version",
    "Bearer of bad news and responsibilities",
    "basic understanding of things",
    "Basic knowledgeable",
    "http://localhost:8080/path?x=1@y",
    "https://example.com:443/a@b",
    "redis://localhost:6379/0",
    "postgres://user:${PASSWORD}@host/db",
    "eyJub3QiOiJhIHRva2VuIn0",
    "eyJh.bc.d",
    "AKIA",
    "AKIAlowercaseletters1",
    "SUNDAY AND SATURDAY",
    "SKU0123456789",
    "SG.1.2",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----",
    "ghp_short",
    "hf_transfer",
    "npm_config_registry",
    "pypi-mirror",
    "crew.trip-1.req.ann.bob.0123456789abcdefghij",
    "ISBN 978-3-16-148410-0",
    "lat 52.520008, lon 13.404954",
    "1,234,567,890",
    "aGVsbG8gd29ybGQgdGhpcyBpcyBwbGFpbg==",
    "#a1b2c3d4e5",
    "(555) apples and (123) pears",
    "tel aviv 1909",
]


@pytest.mark.parametrize("text", LOOK_ALIKES)
@pytest.mark.parametrize("around", ["{}", "id={} ok", "see {}, then", '["{}"]'])
def test_what_only_looks_alike_is_left(text: str, around: str):
    whole = around.format(text)
    assert REDACTOR.text(whole) == (whole, [])
    assert REDACTOR.value({"reference": whole}) == ({"reference": whole}, [])


def test_every_kind_has_a_test():
    tested = {*SECRETS, *PERSONAL, FIELD}
    tested |= {"slack_webhook", "private_key", "bearer_token", "basic_credentials", "url_password", "password"}
    assert tested == set(KINDS)


def test_equal_secrets_stay_comparable_and_keys_differ():
    mail = "bob@example.com"
    one, two = REDACTOR.text(f"{mail} and {mail} not ann@example.com")[0], Redactor(b"another key")
    first, second, third = one.replace(" not ", " and ").split(" and ")
    assert first == second != third
    assert two.text(mail)[0] != first
    # Found by the name of its field or by its looks: the hash is the same.
    by_looks = REDACTOR.value([SECRETS["stripe_key"]])[1][0]
    by_name = REDACTOR.value({"password": SECRETS["stripe_key"]})[1][0]
    assert by_looks.kind != by_name.kind
    assert by_looks.digest == by_name.digest
    assert Redactor().text(mail)[0] == "[redacted:email]"


@pytest.mark.parametrize(
    ("name", "value", "gone"),
    [
        ("password", "anything at all", True),
        ("DB_PASSWORD", "x y", True),
        ("client-secret", "abc", True),
        ("Authorization", "whatever", True),
        ("apiKey", "abc", True),
        ("token", A20, True),
        ("session_token", A20, True),
        ("token", "word", False),
        ("next_page_token", A20, False),
        ("max_tokens", "4000", False),
        ("password", "${DB_PASSWORD}", False),
        ("password", "", False),
        ("password_hint", "the usual", False),
        ("secretary", "Ann", False),
    ],
)
def test_fields_named_like_secrets(name: str, value: str, gone: bool):
    cleaned, found = REDACTOR.value({"x": [{name: value}]})
    assert (cleaned["x"][0][name] != value) is gone
    assert [each.kind for each in found] == ([FIELD] if gone else [])
    if gone:
        assert found[0].path == f"x[0].{name}"
    assert REDACTOR.value(cleaned) == (cleaned, [])


def test_values_are_walked_and_never_changed():
    given_value = {
        "a": [1, None, True, 2.5, {"b": "mail bob@example.com"}],
        "bob@example.com": 1,
        "n": 4111111111111111,
    }
    before = json.dumps(given_value)
    cleaned, found = REDACTOR.value(given_value, "args")
    assert json.dumps(given_value) == before
    assert cleaned["a"][:4] == [1, None, True, 2.5]
    assert "bob" not in json.dumps(cleaned)
    assert cleaned["n"].startswith("[redacted:card:")
    assert [each.path for each in found] == ["args.a[4].b", "args.{name}", "args.n"]
    nameless = Redactor().value({"a@example.com": 1, "b@example.com": 2})[0]
    assert sorted(nameless.values()) == [1, 2], "two names that become one placeholder keep both values"


def test_kinds_can_be_chosen():
    text = f"bob@example.com {SECRETS['stripe_key']} +49 171 1234567"
    assert "bob@" in Redactor(KEY, ["secrets"]).text(text)[0]
    assert SECRETS["stripe_key"] in Redactor(KEY, ["personal"]).text(text)[0]
    assert [each.kind for each in Redactor(KEY, ["email"]).text(text)[1]] == ["email"]
    assert Redactor(KEY, ["personal"]).value({"password": "x"}) == ({"password": "x"}, [])
    assert Redactor(KEY, []).text(text) == (text, [])
    with pytest.raises(ValueError, match="'emial'"):
        Redactor(KEY, ["emial"])
    assert set(KINDS.values()) == set(CLASSES)


def test_depth_is_limited():
    tower: object = "x"
    for _ in range(MAX_DEPTH + 5):
        tower = [tower]
    with pytest.raises(TooDeep, match="flatten"):
        REDACTOR.value(tower)


def test_what_was_redacted_is_nowhere_in_the_report():
    _, found = REDACTOR.value({"note": f"bob@example.com {JWT}", "password": "hunter2"})
    assert "bob" not in repr(found)
    assert "hunter2" not in repr(found)


PIECES = st.sampled_from(
    [
        *SECRETS.values(),
        *(value for values in PERSONAL.values() for value in values),
        *("password=", "token: ", "Bearer ", "://u:", "@", "+", "-", ".", " ", "\n", "a", "7", "[", "]", ":", "=", '"'),
        *("[redacted:email]", "[redacted:email:0123456789ab]", "[redacted:", "-----BEGIN PRIVATE KEY-----"),
    ]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=60)


@settings(max_examples=600, deadline=None)
@given(text=TEXTS)
@example(text="password=[redacted:email]x7y8z9")
@example(text="://u:[redacted:email]@")
def test_redacting_twice_changes_nothing(text: str):
    for redactor in (REDACTOR, Redactor()):
        once, _ = redactor.text(text)
        assert redactor.text(once) == (once, [])


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_what_is_found_is_what_changes(text: str):
    cleaned, found = REDACTOR.text(text)
    assert (cleaned == text) is (not found)


@settings(max_examples=200, deadline=None)
@given(
    before=st.text(" \n,;()", max_size=3), kind=st.sampled_from(sorted(SECRETS)), after=st.text(" \n,;()", max_size=3)
)
def test_a_secret_among_separators_never_survives(before: str, kind: str, after: str):
    assert SECRETS[kind] not in REDACTOR.text(f"{before}{SECRETS[kind]}{after}")[0]


UNITS = [
    "a",
    "1",
    "A",
    "-",
    ".",
    "a.",
    "a-",
    "a_",
    "a@",
    "a@a.",
    "eyJ",
    ".eyJ",
    "eyJaaaaaaaaa.",
    "sk-",
    "SU",
    "://",
    "a://b:",
]
UNITS += [
    "password=",
    "password_",
    "pass",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN A",
    "Bearer ",
    "Basic a",
    "+1 ",
    "+1 2 ",
]
UNITS += [
    "(234) ",
    "tel 01",
    "tel: 0 1",
    "1234 ",
    "DE89 3704 ",
    "AB12",
    "=a=",
    ":a:",
    "xoxb-",
    "4111-1111-",
    "AIza",
    "[redacted:",
]


HOSTILE = """
import json, sys
from crewkeeper_bus import personal_patterns, secret_patterns
from crewkeeper_bus.redaction import Redactor
redactor = Redactor(b"key")
for unit in json.load(sys.stdin):
    for tail in ("", "!", " "):
        redactor.text(unit * (40_000 // len(unit)) + tail)
print("done")
"""


def test_hostile_texts_end():
    """With a square law these would take hours; the limit is that of a wait, not a promise about time."""
    units = [*UNITS, *SECRETS.values(), *(value for values in PERSONAL.values() for value in values)]
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE],
        input=json.dumps(units),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def repeats(parsed: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """The limits of every repetition in a parsed expression."""
    for operator, argument in parsed:
        if str(operator) in ("MAX_REPEAT", "MIN_REPEAT"):
            yield argument[0], argument[1]
            yield from repeats(argument[2])
        elif str(operator) == "SUBPATTERN":
            yield from repeats(argument[3])
        elif str(operator) == "BRANCH":
            for branch in argument[1]:
                yield from repeats(branch)
        elif str(operator) in ("ASSERT", "ASSERT_NOT"):
            yield from repeats(argument[1])


@pytest.mark.parametrize(
    "detector", [*secret_patterns.DETECTORS, *personal_patterns.DETECTORS], ids=lambda each: each.kind
)
def test_no_expression_repeats_without_a_limit(detector: secret_patterns.Detector):
    limits = list(repeats(re._parser.parse(detector.pattern.pattern)))  # type: ignore[attr-defined]
    assert all(high <= 20_000 for _, high in limits)


def test_unlimited_repetitions_would_be_noticed():
    (limit,) = repeats(re._parser.parse("(?:a|b(?=c))+"))  # type: ignore[attr-defined]
    assert limit[1] > 20_000


def test_what_stood_against_a_secret_is_looked_at_again():
    cleaned, found = REDACTOR.text(f"{SECRETS['aws_key']}+49 171 1234567")
    assert [each.kind for each in found] == ["aws_key", "phone"]
    assert re.fullmatch(r"(\[redacted:\w+:[0-9a-f]{12}\]){2}", cleaned)


def test_the_hash_is_the_one_that_is_documented():
    expected = hmac.new(KEY, b"bob@example.com", "sha256").hexdigest()[:12]
    assert REDACTOR.text("bob@example.com")[0] == f"[redacted:email:{expected}]"


def test_a_chain_that_goes_on_and_on_is_replaced_as_a_whole():
    chain = "+49 171 1234567" * 50
    cleaned, found = REDACTOR.text(chain)
    assert re.fullmatch(r"\[redacted:phone:[0-9a-f]{12}\]", cleaned)
    assert found
    assert "1234567" not in cleaned
