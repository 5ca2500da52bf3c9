"""Redaction: what it costs per KB and how well it finds, beside a plain rule; `python -m benchmarks.redaction`.

The corpus is made up from a seed: sentences, logs and JSON as agents write them, with one secret or piece of personal
data each, or with something that only looks like one. The patterns, the decoys and the plain rule are of one author, so
the scores compare the methods; they do not foretell what is found in the wild.
"""

import gc
import string
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from benchmarks.ground import load, median, report
from crewkeeper_bus.detectors import PACKAGES, lacks
from crewkeeper_bus.redaction import Redactor

SEED = 20261122
EACH = 12
"""Texts of each kind."""
ROUNDS = 5
Find = Callable[[str], str]
"""A text as it would be shown."""

_ALNUM = string.ascii_letters + string.digits
_FRAMES = (
    "please use {} for the staging account and tell me when it works",
    "2026-11-22T10:00:01Z INFO worker-3 connecting with {} (attempt 2 of 5)",
    '{{"step": 4, "note": "got {} from the vault", "ok": true}}',
    "the reviewer asked why {} stands in the report; remove it, then send the summary to the planner",
)


def _some(random: Random, alphabet: str, chars: int) -> str:
    return "".join(random.choice(alphabet) for _ in range(chars))


def _with_check_digit(digits: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


def _iban(random: Random) -> str:
    bban = _some(random, string.digits, 18)
    check = 98 - int(f"{bban}131400") % 97
    return f"DE{check:02}{bban}"


def secrets(random: Random) -> dict[str, str]:
    """One of each kind of secret and of personal data."""
    return {
        "github": "ghp_" + _some(random, _ALNUM, 36),
        "aws": "AKIA" + _some(random, string.ascii_uppercase + "234567", 16),
        "openai": "sk-proj-" + _some(random, _ALNUM, 48),
        "anthropic": "sk-ant-api03-" + _some(random, _ALNUM, 93) + "AA",
        "slack": f"xoxb-{_some(random, string.digits, 12)}-{_some(random, _ALNUM, 24)}",
        "url": f"postgres://app:{_some(random, _ALNUM, 14)}@db.internal/main",
        "setting": f"password={_some(random, _ALNUM, 16)}",
        "linear": "lin_api_" + _some(random, _ALNUM, 40),
        "digitalocean": "dop_v1_" + _some(random, "0123456789abcdef", 64),
        "mail": f"{_some(random, string.ascii_lowercase, 7)}@example.com",
        "card": _with_check_digit("4" + _some(random, string.digits, 14)),
        "iban": _iban(random),
        "phone": f"+49 171 {_some(random, string.digits, 7)}",
        "ssn": f"{random.randint(100, 665)}-{random.randint(10, 99)}-{random.randint(1000, 9999)}",
    }


def decoys(random: Random) -> dict[str, str]:
    """One of each kind of what only looks like that."""
    hexadecimal = "0123456789abcdef"
    return {
        "uuid": "-".join(_some(random, hexadecimal, chars) for chars in (8, 4, 4, 4, 12)),
        "sha256": "sha256:" + _some(random, hexadecimal, 64),
        "commit": _some(random, hexadecimal, 40),
        "order": f"order {random.randint(10**9, 10**10 - 1)}",
        "time": str(random.randint(1_700_000_000_000, 1_800_000_000_000)),
        "variable": "password=${DB_PASSWORD}",
        "image": f"icon@{random.randint(2, 3)}x.png",
        "repository": "git@github.com:example/project.git",
        "address": f"10.{random.randint(0, 255)}.{random.randint(0, 255)}.7",
        "path": f"/srv/papers/{_some(random, _ALNUM, 24)}/report-final.md",
        "identifier": _some(random, string.ascii_lowercase, 9) + "_" + _some(random, string.ascii_lowercase, 14),
        "date": f"2026-0{random.randint(1, 9)}-1{random.randint(0, 9)}",
    }


class Sample(NamedTuple):
    """A text, and what stands in it."""

    text: str
    value: str
    kind: str
    must_go: bool


def corpus() -> list[Sample]:
    """The texts."""
    random = Random(SEED)
    made = []
    for _ in range(EACH):
        for values, must_go in ((secrets(random), True), (decoys(random), False)):
            for kind, value in values.items():
                made.append(Sample(random.choice(_FRAMES).format(value), value, kind, must_go))
    return made


def plain_rule(text: str) -> str:
    """Every word of sixteen letters and digits or more, and what has an @: as a first attempt does it."""
    words = (
        "***" if "@" in word or (len(word.strip('",;')) >= 16 and any(char.isdigit() for char in word)) else word
        for word in text.split(" ")
    )
    return " ".join(words)


def methods() -> dict[str, Find]:
    """What is compared: detector packages where they are installed."""

    def of(*kinds: str) -> Find:
        redactor = Redactor(b"k" * 32, kinds)
        return lambda text: redactor.text(text)[0]

    made: dict[str, Find] = {"plain rule": plain_rule, "patterns": of("secrets", "personal")}
    there = [word for word in PACKAGES if not lacks(word)]
    for word in there:
        made[word] = of(word)
    if there:
        made["all together"] = of("secrets", "personal", *there)
    return made


def score(find: Find, samples: list[Sample]) -> tuple[float, float, list[str]]:
    """Precision and recall, and the kinds that are missed more often than not."""
    hit = wrong = 0
    missed: Counter[str] = Counter()
    for sample in samples:
        is_gone = sample.value not in find(sample.text)
        hit += is_gone and sample.must_go
        wrong += is_gone and not sample.must_go
        missed[sample.kind] += sample.must_go and not is_gone
    often = [kind for kind, times in missed.items() if times > EACH / 2]
    return hit / max(hit + wrong, 1), hit / max(hit + missed.total(), 1), often


def _us_per_kb(find: Find, texts: list[str]) -> float:
    size = sum(len(text) for text in texts) / 1024
    measured = []
    for _ in range(ROUNDS):
        gc.collect()
        began = time.process_time()
        for text in texts:
            find(text)
        measured.append((time.process_time() - began) * 1e6 / size)
    return median(measured)


def run() -> None:
    """Print the table."""
    samples = corpus()
    loaded = [sample.text for sample in samples]
    prose = ["The committee met on Tuesday and agreed to nothing in particular; minutes follow. " * 12] * 40
    rows = []
    for name, find in methods().items():
        precision, recall, often = score(find, samples)
        cost = f"{_us_per_kb(find, prose):.0f} µs/KB of prose, {_us_per_kb(find, loaded):.0f} µs/KB of such texts"
        missed = f"; misses {', '.join(often)}" if often else ""
        rows.append((name, f"precision {precision:.2f}, recall {recall:.2f}; {cost}{missed}"))
    report("redaction", rows, "of a made-up corpus; packages where they are installed (extras `secrets` and `pii`)")


def main() -> None:
    """Run it alone."""
    print(load())
    run()


if __name__ == "__main__":
    main()
