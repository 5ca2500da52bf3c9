"""Glance: whether a JSON text certainly holds nothing to redact, told without decoding it; finding it is elsewhere.

Nearly every message holds nothing, and walking through all its texts would cost more than sending it. So a glance looks
for what must be there when there is something: literals that kinds begin with, and names of fields that hold secrets.
It may be wrong in one direction only: what it takes for suspicious is then looked at properly.
"""

import re
from collections.abc import Iterable
from typing import Final

from crewkeeper_bus.secret_patterns import SECRET_ENDINGS, SECRET_NAMES, Detector

_ESCAPES: Final = ("\\u", "\\/")
"""What could hide a literal; encoders of JSON rarely make them."""
_SETTINGS: Final = ("accesskey", "sharedaccesskey", "accesstoken", "authtoken", "refreshtoken")
_COMMON: Final = {
    "openai_key": re.compile(r"sk-[A-Za-z0-9_-]{20}"),
    "twilio_key": re.compile(r"SK[0-9a-f]{32}"),
    "nats_seed": re.compile(r"S[ACNOUX][A-Z2-7]{56}"),
    "github_token": re.compile(r"gh[pousr]_|github_pat_"),
    "gitlab_token": re.compile(r"gl[a-z]{2,4}-"),
}
"""Kinds whose literals stand in ordinary text, too."""
_PARTS: Final = ("key", "token", "pass", "pwd", "secret", "cookie", "authorization", "connectionstring")
"""Every name of a field has one of them; fewer to look for."""
_DIGITS: Final = re.compile(r"[0-9]{2}")


class Glance:
    """What to look for.

    Args:
        detectors: Those that will look properly.
        fields: Whether fields that are named like secrets count.
    """

    def __init__(self, detectors: Iterable[Detector], *, fields: bool) -> None:
        """Gather the literals."""
        chosen = tuple(detectors)
        kinds = {each.kind for each in chosen}
        self._literals = tuple(
            dict.fromkeys(
                hint
                for each in chosen
                if each.kind not in _COMMON and each.kind not in ("password", "url_password")
                for hint in each.hints
            )
        )
        self._patterns = tuple(pattern for kind, pattern in _COMMON.items() if kind in kinds)
        self._addresses = "url_password" in kinds
        self._numbers = any(not each.hints for each in chosen)
        names: set[str] = set()
        if fields:
            names |= {name for name in SECRET_NAMES if not name.endswith("token")} | set(SECRET_ENDINGS)
            names.add('token"')
        if "password" in kinds:
            names |= {"password", "passwd", "passphrase", "pwd", "secret", "apikey", "privatekey", "accountkey"}
            names |= set(_SETTINGS)
        assert all(any(part in name for part in _PARTS) for name in names)
        # `clientsecret` cannot be there without `secret`.
        self._names = tuple(sorted(name for name in names if not any(o != name and o in name for o in names)))

    def is_clean(self, text: str) -> bool:
        """Whether a JSON text certainly holds nothing; False: it may."""
        if any(escape in text for escape in _ESCAPES) or any(literal in text for literal in self._literals):
            return False
        if self._addresses and "://" in text and "@" in text:
            return False
        if self._numbers and _DIGITS.search(text):
            return False
        if any(pattern.search(text) for pattern in self._patterns):
            return False
        if not self._names:
            return True
        # As names of fields are compared: without case, `_` and `-`.
        folded = text.casefold().replace("_", "").replace("-", "")
        if not any(part in folded for part in _PARTS):
            return True
        return not any(name in folded for name in self._names)
