"""Python hooks: asked in a process of their own, killed when late."""

import os
import threading
from pathlib import Path

import pytest

from crewkeeper_supervisor.core.rules import Rule
from crewkeeper_supervisor.gate.call import Call
from crewkeeper_supervisor.gate.policy import HookFailed, Policy
from crewkeeper_supervisor.shell.hooks import HookProcess

HOOKS = """
import os, sys, time

def pid(call): return str(os.getpid())
def large(call): return call["args"].get("amount", 0) > 100
def reason(call): return f"{call['agent']} may not"
def spins(call):
    while True: pass
def holds(call):
    import re
    return bool(re.fullmatch("(a+)+$", "a" * 60 + "!"))
def raises(call): raise RuntimeError("no\\nidea " + "x" * 5000)
def nothing(call): return None
def empty(call): return ""
async def later(call): return True
def noisy(call):
    print("{}"); os.write(1, b"{}\\n"); sys.stdout.flush()
    return True
def leaves(call): os._exit(3)
def changes(call):
    call["args"]["amount"] = 0
    return True
not_callable = 3
"""
CALL = Call(agent="ann", tool="pay", args={"amount": 500})
NAMES = (
    "pid",
    "large",
    "reason",
    "spins",
    "holds",
    "raises",
    "nothing",
    "empty",
    "later",
    "noisy",
    "leaves",
    "changes",
)
LONG_S = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "judges.py").write_text(HOOKS)
    return tmp_path


def process(folder: Path, *more: str, **options) -> HookProcess:
    return HookProcess([*(f"judges:{name}" for name in NAMES), *more], folder, **options)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_hooks_answer(folder: Path):
    with process(folder) as hooks:
        assert hooks.check() == {}
        assert hooks.ask("judges:large", CALL, LONG_S) is True
        assert hooks.ask("judges:large", Call(agent="ann"), LONG_S) is False
        assert hooks.ask("judges:reason", CALL, LONG_S) == "ann may not"
        assert hooks.ask("judges:noisy", CALL, LONG_S) is True
        assert hooks.ask("judges:changes", CALL, LONG_S) is True
        assert CALL.args == {"amount": 500}
        pid = hooks.ask("judges:pid", CALL, LONG_S)
        assert hooks.ask("judges:pid", CALL, LONG_S) == pid, "one process for all"
    assert is_gone(int(pid))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "RuntimeError"),
        ("nothing", "NoneType"),
        ("empty", "str"),
        ("later", "coroutine"),
        ("leaves", "ended by itself"),
        ("unknown", "not loaded"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_no_answer_is_a_failure(folder: Path, name: str, message: str):
    with process(folder) as hooks:
        with pytest.raises(HookFailed, match=message):
            hooks.ask(f"judges:{name}", CALL, LONG_S)
        assert hooks.ask("judges:large", CALL, LONG_S) is True, "the next question is answered"


@pytest.mark.parametrize("name", ["spins", "holds"])
def test_a_late_hook_is_killed_whatever_it_does(folder: Path, name: str):
    with process(folder) as hooks:
        pid = int(hooks.ask("judges:pid", CALL, LONG_S))
        with pytest.raises(HookFailed, match=r"within 0\.3 s and was killed"):
            hooks.ask(f"judges:{name}", CALL, 0.3)
        assert is_gone(pid)
        assert int(hooks.ask("judges:pid", CALL, LONG_S)) != pid


def test_what_cannot_be_imported_is_told(folder: Path):
    (folder / "broken.py").write_text("raise ValueError('at import')")
    with process(folder, "broken:f", "judges:missing", "judges:not_callable", "nowhere:f") as hooks:
        errors = hooks.check()
        assert set(errors) == {"broken:f", "judges:missing", "judges:not_callable", "nowhere:f"}
        assert "at import" in errors["broken:f"]
        with pytest.raises(HookFailed, match="at import"):
            hooks.ask("broken:f", CALL, LONG_S)


def test_importing_has_a_limit(folder: Path):
    (folder / "slow.py").write_text("while True: pass")
    with (
        HookProcess(["slow:f"], folder, start_limit_s=1.0) as hooks,
        pytest.raises(HookFailed, match="imported within"),
    ):
        hooks.check()


def test_one_question_at_a_time_and_nobody_waits_longer_than_allowed(folder: Path):
    with process(folder) as hooks:
        hooks.check()
        failed: list[str] = []

        def spin() -> None:
            with pytest.raises(HookFailed) as caught:
                hooks.ask("judges:spins", CALL, 3.0)
            failed.append(str(caught.value))

        thread = threading.Thread(target=spin)
        thread.start()
        while not hooks._lock.locked():
            assert thread.is_alive()
        with pytest.raises(HookFailed, match="others are being asked"):
            hooks.ask("judges:large", CALL, 0.05)
        thread.join(LONG_S)
        assert "killed" in failed[0]


def test_who_asks_while_the_hooks_are_imported_waits_for_that(folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked, go = threading.Event(), threading.Event()
    answers: list[object] = []

    class Gate:
        """What holds the lock's place: whoever comes waits for `go`, for as long as it may."""

        def acquire(self, timeout: float) -> bool:
            asked.set()
            return timeout > 0.0 and go.wait(timeout)

        def release(self) -> None:
            pass

    with process(folder) as hooks:
        lock = hooks._lock
        monkeypatch.setattr(hooks, "_lock", Gate())
        monkeypatch.setattr(hooks, "_start", lambda: None)
        monkeypatch.setattr(hooks, "_exchange", lambda *_: {"applies": True})
        thread = threading.Thread(target=lambda: answers.append(hooks.ask("judges:large", CALL, 0.0)))
        thread.start()
        assert asked.wait(LONG_S)
        go.set()
        thread.join(LONG_S)
        monkeypatch.setattr(hooks, "_lock", lock)
    assert answers == [True]


def test_a_policy_denies_when_its_hook_fails(folder: Path):
    rules = [
        Rule(id="slow", do="allow", tools=("slow",), hook="judges:spins", deadline_s=0.2),
        Rule(id="pay", do="approve", tools=("pay",), hook="judges:reason", when="args.amount > 100"),
    ]
    with process(folder) as hooks:
        policy = Policy(rules, hooks=hooks)
        late = policy.decide(Call(agent="ann", tool="slow"))
        assert (late.effect, late.rule, "killed" in late.error) == ("deny", "slow", True)
        asked = policy.decide(CALL)
        assert (asked.effect, asked.because) == ("approve", "ann may not")
