"""What secrets look like: keys of providers, tokens, private keys, credentials in addresses and settings.

Every expression begins with a literal or a short class behind a fixed look-behind, repeats only with an upper limit,
and never repeats a repetition over the same characters: the time of a search is linear in the text. Where a format has
a checksum or a structure, it is checked, so that what merely looks alike is left.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Final, NamedTuple

_WORD = r"(?<![A-Za-z0-9_-])"
_END = r"(?![A-Za-z0-9_-])"


class Detector(NamedTuple):
    """How one kind is found.

    `hints`: texts of which one is there when the kind is; a cheap look before the expression. `group`: what is
    replaced. `fits`: a further check of it.
    """

    kind: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    group: int | str = 0
    fits: Callable[[str], bool] | None = None


def _key(kind: str, hint: str | tuple[str, ...], body: str, fits: Callable[[str], bool] | None = None) -> Detector:
    hints = (hint,) if isinstance(hint, str) else hint
    return Detector(kind, hints, re.compile(_WORD + body + _END), 0, fits)


def is_mixed(text: str) -> bool:
    """Whether letters and digits are mixed as in generated keys, unlike in words, numbers and plain identifiers."""
    digits = sum(char.isdigit() for char in text)
    letters = sum(char.isalpha() for char in text)
    return digits >= 2 and letters >= 2 and len(set(text)) >= 8


def _is_nkey_seed(text: str) -> bool:
    """Base32 with a CRC-16 (XMODEM) at its end, as NATS makes seeds."""
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        return False
    return len(raw) > 2 and binascii.crc_hqx(raw[:-2], 0) == int.from_bytes(raw[-2:], "little")


def _is_jwt(text: str) -> bool:
    head = text.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def _is_basic(text: str) -> bool:
    try:
        return b":" in base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False


def is_placeholder(text: str) -> bool:
    """Whether a value stands for a secret instead of being one: a variable, an example in brackets, stars."""
    bare = text.strip("\"'")
    return (
        not bare
        or bare[0] in "$<{[(%"
        or not bare.strip("*.xX-_•#")
        or bare.lower() in {"none", "null", "true", "false", "changeme", "redacted", "hidden", "required", "optional"}
    )


def _is_password(text: str) -> bool:
    """Whether a value set in running text is a password rather than a word, a number or code."""
    if is_placeholder(text) or any(char in "()[]{}" for char in text):
        return False
    # `os.environ`, `config.secret`, `self.token_v2`: names of things, not the things.
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}(?:\.[A-Za-z_][A-Za-z0-9_]{0,63}){1,8}", text):
        return False
    return any(char.isdigit() for char in text) and any(char.isalpha() for char in text)


_SETTING = (
    r"(?i:(?<![A-Za-z0-9])(?:[A-Za-z0-9]{1,32}[_.-]){0,4}"
    r"(?:password|passwd|passphrase|pwd|secret|secret[_-]?key|secret[_-]?access[_-]?key|api[_-]?key|access[_-]?key"
    r"|access[_-]?token|auth[_-]?token|refresh[_-]?token|client[_-]?secret|private[_-]?key|account[_-]?key"
    r"|shared[_-]?access[_-]?key))"
    # After a bare colon it may be prose, `secret: SHA-256`, and has to be longer.
    r"(?:[\"']?[ \t]{0,4}:?={1,2}[ \t]{0,4}|[\"'][ \t]{0,4}:[ \t]{0,4}|:[ \t]{0,4}(?=[\"']?[^\s\"',;&<>`]{8}))"
    r"[\"']?(?P<value>[^\s\"',;&<>`]{6,512})"
)

DETECTORS: Final[tuple[Detector, ...]] = (
    _key("aws_key", ("AKIA", "ASIA", "ABIA", "ACCA"), r"A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16}"),
    _key("anthropic_key", "sk-ant-", r"sk-ant-[a-z]{2,12}[0-9]{2}-[A-Za-z0-9_-]{20,256}"),
    _key("openrouter_key", "sk-or-", r"sk-or-v1-[0-9a-f]{64}"),
    _key("openai_key", "sk-", r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,256}"),
    _key("openai_key", "sk-", r"sk-[A-Za-z0-9]{20,64}", is_mixed),
    _key("github_token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36,255}"),
    _key("github_token", "github_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _key(
        "gitlab_token", "gl", r"gl(?:pat|dt|rt|ptt|cbt|soat|ft)-[A-Za-z0-9_-]{20,64}(?:\.[0-9a-z]{2}\.[0-9a-z]{7,9})?"
    ),
    _key("slack_token", "xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,250}", is_mixed),
    _key("slack_token", "xapp-", r"xapp-[0-9]-[A-Z0-9]{8,16}-[0-9]{8,16}-[a-f0-9]{32,128}"),
    Detector(
        "slack_webhook",
        ("hooks.slack.com",),
        re.compile(r"hooks\.slack\.com/(?:services|workflows)/(?P<value>[A-Za-z0-9_/-]{20,128})"),
        "value",
    ),
    _key("google_key", "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    _key("google_token", "ya29.", r"ya29\.[A-Za-z0-9_-]{20,2048}"),
    _key("google_secret", "GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{28}"),
    _key("stripe_key", ("sk_", "rk_"), r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,247}"),
    _key("webhook_secret", "whsec_", r"whsec_[A-Za-z0-9+/]{24,88}={0,2}"),
    _key("huggingface_token", "hf_", r"hf_[A-Za-z0-9]{34}"),
    _key("sendgrid_key", "SG.", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    _key("npm_token", "npm_", r"npm_[A-Za-z0-9]{36}"),
    _key("pypi_token", "pypi-", r"pypi-AgE[A-Za-z0-9_-]{50,1024}"),
    _key("twilio_key", "SK", r"SK[0-9a-f]{32}"),
    _key("digitalocean_token", "_v1_", r"do[opr]_v1_[0-9a-f]{64}"),
    _key("shopify_token", "shp", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    _key("groq_key", "gsk_", r"gsk_[A-Za-z0-9]{52}"),
    _key("xai_key", "xai-", r"xai-[A-Za-z0-9]{80}"),
    _key("replicate_token", "r8_", r"r8_[A-Za-z0-9]{37}"),
    _key("telegram_token", ":AA", r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"),
    _key("vault_token", "hvs.", r"hvs\.[A-Za-z0-9_-]{24,200}"),
    _key("age_key", "AGE-SECRET-KEY-", r"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    _key("nats_seed", "S", r"S[ACNOUX][A-Z2-7]{56}", _is_nkey_seed),
    Detector(
        "jwt",
        ("eyJ",),
        re.compile(_WORD + r"eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{4,16384}\.[A-Za-z0-9_-]{0,4096}"),
        0,
        _is_jwt,
    ),
    Detector(
        "private_key",
        ("-----BEGIN ",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"(?P<value>(?:[A-Za-z0-9+/=\s\\:,.]|-(?!-)){16,20000})"
        ),
        "value",
    ),
    Detector(
        "bearer_token",
        ("earer ", "EARER "),
        re.compile(r"(?<![A-Za-z0-9])(?:[Bb]earer|BEARER) {1,4}(?P<value>[A-Za-z0-9._~+/-]{16,4096}={0,2})"),
        "value",
        is_mixed,
    ),
    Detector(
        "basic_credentials",
        ("asic ", "ASIC "),
        re.compile(r"(?<![A-Za-z0-9])(?:[Bb]asic|BASIC) {1,4}(?P<value>[A-Za-z0-9+/]{8,1024}={0,2})"),
        "value",
        _is_basic,
    ),
    Detector(
        "url_password",
        ("://",),
        re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s:/?#@]{0,128}:(?P<value>[^\s/?#@]{1,256})@"),
        "value",
        lambda text: not is_placeholder(text),
    ),
    Detector(
        "password",
        ("=", ":"),
        re.compile(_SETTING),
        "value",
        _is_password,
    ),
)

SECRET_NAMES: Final = frozenset(
    (
        *("password", "passwd", "pwd", "passphrase", "secret", "clientsecret", "cookie", "setcookie"),
        *(
            "apikey",
            "xapikey",
            "secretkey",
            "secretaccesskey",
            "privatekey",
            "accountkey",
            "signingkey",
            "encryptionkey",
        ),
        *("accesstoken", "refreshtoken", "authtoken", "bearertoken", "sessiontoken", "idtoken"),
        *("authorization", "proxyauthorization", "connectionstring"),
    )
)
"""Names of fields whose text is secret whatever it looks like; in lower case, without `_` and `-`."""
SECRET_ENDINGS: Final = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "secretkey",
    "privatekey",
    "accesstoken",
)
"""Ends of such names."""
_TOKEN_OF_PAGES: Final = ("page", "next", "prev", "continuation", "cursor", "sync")


def is_secret_field(name: str, value: str) -> bool:
    """Whether the text of a field of this name is a secret."""
    if is_placeholder(value):
        return False
    folded = name[-64:].lower().replace("_", "").replace("-", "")
    if folded in SECRET_NAMES or folded.endswith(SECRET_ENDINGS):
        return True
    if not folded.endswith("token") or any(word in folded for word in _TOKEN_OF_PAGES):
        return False
    return len(value) >= 16 and is_mixed(value)
