"""Policy: CPU of one decision, check of arguments, redaction and price, beside what plain Python rules cost."""

import gc
import time
from collections.abc import Callable

from benchmarks.ground import load, median, report
from crewkeeper_bus.redaction import Redactor
from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.gate.arguments import ArgumentCheck
from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.gate.policy import Policy
from crewkeeper_supervisor.gate.prices import PriceBook, Usage

ROUNDS = 7
TIMES = 2000
CALL = Call(
    agent="worker-7",
    role="worker",
    tool="files.write_file",
    args={"path": "out/report.md", "text": "x" * 400, "lines": 12, "tags": ["a", "b", "c"]},
    depth=3,
    at_s=1.79e9,
)
CONDITIONS = [
    "args.path.startsWith('/')",
    "args.path.matches('^(\\\\.\\\\./)+')",
    "args.lines > 1000 || size(args.text) > 100000",
    "args.tags.exists(t, t == 'secret')",
    "depth > 10 && role != 'lead'",
]
SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "pattern": "^[a-z0-9/._-]+$"},
        "text": {"type": "string", "maxLength": 100_000},
        "lines": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["path", "text"],
    "additionalProperties": False,
}
PLAIN = {
    "text": "The committee met on Tuesday and agreed to nothing in particular. " * 5,
    "items": [1, 2, "three"],
    "n": 7,
}
LOADED = {"text": "write to bob@example.com, card 4111 1111 1111 1111, +49 171 1234567 " * 3}
HOSTILE = ["a", "1234 ", "a@a.", "eyJ.", "password=", "-----BEGIN PRIVATE KEY-----", "DE89 3704 ", "+1 2 "]


def rules(number: int) -> list[Rule]:
    """Rules about other tools, and at the end those five that have to be evaluated."""
    other = [
        Rule(id=f"o{each}", do="deny", tools=(f"other{each}.*",), when="args.x == 1") for each in range(number - 5)
    ]
    return other + [Rule(id=f"c{each}", do="deny", when=when) for each, when in enumerate(CONDITIONS)]


def by_hand(call: Call) -> str:
    """The same five conditions in Python."""
    args = call.args
    if args["path"].startswith("/") or args["path"].startswith("../"):
        return "deny"
    if args["lines"] > 1000 or len(args["text"]) > 100_000 or "secret" in args["tags"]:
        return "deny"
    return "deny" if call.depth > 10 and call.role != "lead" else "allow"


def cost_us(work: Callable[[], object], times: int = TIMES) -> float:
    """Microseconds of one, the median of the rounds."""
    work()
    taken = []
    gc.collect()
    gc.disable()
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(times):
            work()
        taken.append((time.process_time() - begun) / times)
    gc.enable()
    return 1e6 * median(taken)


def slowest() -> tuple[float, str]:
    """Nanoseconds a character of the slowest hostile text, and how that grows when it is ten times as long."""
    redactor = Redactor(b"key")
    worst = (0.0, 0.0, "")
    for unit in HOSTILE:
        short, long = unit * (10_000 // len(unit)), unit * (100_000 // len(unit))
        each = [cost_us(lambda text=text: redactor.text(text), 1) * 1000 / len(text) for text in (short, long)]  # type: ignore[misc]
        worst = max(worst, (each[1], each[1] / each[0], unit))
    return worst[0], f"{worst[0]:.0f} ns a character ({worst[2]!r}); ten times as long: {worst[1]:.1f} times that"


def run() -> None:
    """Measure and print."""
    few, many = Policy(rules(5)), Policy(rules(500))
    assert few.decide(CALL).effect == many.decide(CALL).effect == by_hand(CALL) == "allow"
    check = ArgumentCheck("write_file", SCHEMA)
    bad = {"path": "A B", "lines": "x", "tags": [1, 2], "extra": True}
    assert check.check(CALL.args) is None
    redactor, book = Redactor(b"key"), PriceBook()
    usage = Usage(input_tokens=1200, output_tokens=300, cached_tokens=800)
    varied = iter(range(10**9))

    def new_price() -> object:
        return book.cost("gpt-4o", Usage(input_tokens=next(varied), output_tokens=1), at_s=1.79e9)

    decision = cost_us(lambda: few.decide(CALL))
    report(
        "Policy, CPU of one",
        [
            (
                "decision, 5 conditions evaluated",
                f"{decision:.1f} µs ({decision / cost_us(lambda: by_hand(CALL)):.0f} x plain Python)",
            ),
            ("decision, 500 rules of which 5 apply", f"{cost_us(lambda: many.decide(CALL)):.1f} µs"),
            ("decision, no condition", f"{cost_us(lambda: BARE.decide(CALL)):.1f} µs"),
            ("arguments that fit", f"{cost_us(lambda: check.check(CALL.args)):.1f} µs"),
            ("arguments with five mistakes", f"{cost_us(lambda: check.check(bad)):.1f} µs"),
            ("redaction of a message with nothing in it", f"{cost_us(lambda: redactor.value(PLAIN)):.1f} µs"),
            ("redaction of a message with nine finds", f"{cost_us(lambda: redactor.value(LOADED)):.1f} µs"),
            ("redaction, slowest hostile text", slowest()[1]),
            ("price, seen before", f"{cost_us(lambda: book.cost('gpt-4o', usage, at_s=1.79e9)):.1f} µs"),
            ("price, new usage", f"{cost_us(new_price, 300):.0f} µs"),
        ],
    )


BARE = Policy([Rule(id="all", do="allow")])


if __name__ == "__main__":
    print(load())
    run()
