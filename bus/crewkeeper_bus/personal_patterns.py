"""What personal data looks like: mail addresses, bank accounts, cards, telephone numbers; checksums are checked.

The expressions keep the rules of `secret_patterns`: linear in the text.
"""

import re
from typing import Final

from crewkeeper_bus.secret_patterns import Detector

_FILE_ENDINGS: Final = frozenset(
    (
        *(
            "png",
            "jpg",
            "jpeg",
            "gif",
            "webp",
            "svg",
            "ico",
            "css",
            "html",
            "xml",
            "js",
            "ts",
            "py",
            "so",
            "dll",
            "exe",
        ),
        *("md", "txt", "pdf", "json", "yaml", "yml", "toml", "lock", "zip", "gz", "tar"),
    )
)
_NO_PERSON: Final = frozenset(("git", "hg", "svn"))
IBAN_LENGTHS: Final[dict[str, int]] = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
"""Characters of an IBAN by country (SWIFT registry)."""


def is_email(text: str) -> bool:
    """Whether it is the address of somebody, not of a repository or an image."""
    local, _, domain = text.rpartition("@")
    return local not in _NO_PERSON and domain.rpartition(".")[2].lower() not in _FILE_ENDINGS and ".." not in local


def is_iban(text: str) -> bool:
    """Length of the country, and remainder 1 modulo 97 (ISO 13616)."""
    bare = text.replace(" ", "")
    if IBAN_LENGTHS.get(bare[:2]) != len(bare):
        return False
    return int("".join(str(int(char, 36)) for char in bare[4:] + bare[:4])) % 97 == 1


def is_card(text: str) -> bool:
    """Prefix and length of an issuer, and the digit of Luhn (ISO 7812)."""
    digits = "".join(char for char in text if char.isdigit())
    return _is_issued(digits) and _luhn(digits) and len(set(digits)) > 1


def _is_issued(digits: str) -> bool:
    first, length = int(digits[:4]), len(digits)
    if length == 16:
        return (
            digits[0] == "4"
            or 5100 <= first <= 5599
            or 2221 <= first <= 2720
            or first == 6011
            or 6440 <= first <= 6599
            or 3528 <= first <= 3589
        )
    if length == 15:
        return digits[:2] in {"34", "37"}
    return length == 14 and (digits[:2] in {"36", "38", "39"} or 3000 <= first <= 3059)


def _luhn(digits: str) -> bool:
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_phone(text: str) -> bool:
    """Seven to fifteen digits (E.164), and grouped or long enough to be no signed number."""
    digits = sum(char.isdigit() for char in text)
    if not text.startswith("+"):
        return 7 <= digits <= 15
    return 8 <= digits <= 15 and (any(char in " -.()/" for char in text) or digits >= 10)


_ALONE = r"(?<![A-Za-z0-9_.+=/-])"
_CLOSED = r"(?![A-Za-z0-9_=/-])(?!\.[0-9])"
DETECTORS: Final[tuple[Detector, ...]] = (
    Detector(
        "email",
        ("@",),
        re.compile(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}"
            r"(?![A-Za-z0-9_-])"
        ),
        0,
        is_email,
    ),
    Detector(
        "iban",
        (),
        re.compile(_ALONE + r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?" + _CLOSED),
        0,
        is_iban,
    ),
    Detector(
        "card",
        (),
        re.compile(
            _ALONE
            + r"(?:[0-9]{14,16}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}|3[0-9]{3}[ -][0-9]{6}[ -][0-9]{4,5})"
            + _CLOSED
        ),
        0,
        is_card,
    ),
    Detector(
        "phone",
        ("+",),
        re.compile(_ALONE + r"\+[1-9][0-9]{0,2}(?:[ .-]?\(0?[0-9]{1,4}\))?(?:[ .-]?[0-9]{1,6}){1,6}" + _CLOSED),
        0,
        is_phone,
    ),
    Detector(
        "phone",
        ("(",),
        re.compile(r"(?<![A-Za-z0-9_.+=/)-])\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-][0-9]{4}" + _CLOSED),
        0,
        is_phone,
    ),
    Detector(
        "phone",
        (),
        re.compile(
            r"(?i:(?<![A-Za-z])(?:tel|telephone|phone|mobile|cell|fax|telefon|mobil)(?: no| number|nr)?[.:]{0,2} {0,3})"
            r"(?P<value>0[0-9]{1,5}(?:[ ./-]{1,2}[0-9]{2,8}){1,5}|0[0-9]{7,13})" + _CLOSED
        ),
        "value",
        is_phone,
    ),
)
