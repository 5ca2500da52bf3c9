"""`supervisor policy`: check, test and explain the rules of a file; what is about runs is in `policy_live`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from crewkeeper_supervisor.cli.failure import FAILED, INVALID, USAGE, Failure
from crewkeeper_supervisor.cli.output import emit_document, output_option, say, write
from crewkeeper_supervisor.cli.policy_live import apply, hooks_of, show

if TYPE_CHECKING:
    from crewkeeper_supervisor.gate.call import Call, Explanation
    from crewkeeper_supervisor.gate.trial import TrialResult
    from crewkeeper_supervisor.shell.policy_file import PolicyFile

SCHEMA_VERSION: Final = 1
_CALL_MAX_BYTES: Final = 8 * 1024 * 1024
_EXAMPLE: Final = '{"agent": "planner", "tool": "search", "args": {"query": "x"}}'


@click.group()
def policy() -> None:
    """Check, test, explain and apply policy rules."""


policy.add_command(apply)
policy.add_command(show)


@policy.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--no-hooks", is_flag=True, help="Do not import Python hooks.")
@output_option()
def check(files: tuple[Path, ...], no_hooks: bool, output: str) -> None:
    """Check rules: every mistake at once, conditions compiled, hooks imported.

    Exit status: 0 all are valid (there may be warnings), 3 one is not.
    """
    results = [_check_one(file, hooks=not no_hooks) for file in files]
    if output in ("table", "wide"):
        for result in results:
            _print_checked(result)
    else:
        emit_document({"schema_version": SCHEMA_VERSION, "files": results}, output, list)
    if not all(result["ok"] for result in results):
        raise click.exceptions.Exit(INVALID)


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
@output_option()
def test(file: Path, output: str) -> None:
    """Try the calls that a file keeps as tests against its rules.

    Exit status: 0 all passed, 1 one did not, 3 the file is invalid.
    """
    from crewkeeper_supervisor.gate.trial import try_out
    from crewkeeper_supervisor.shell.policy_file import read_policy

    loaded = read_policy(file)
    with hooks_of(loaded) as hooks:
        tried = loaded.policy(hooks)
        results = [try_out(tried, trial) for trial in loaded.trials]
    failed = [result for result in results if result.problems]
    if output in ("table", "wide"):
        _print_tests(file, loaded, results)
    else:
        document = {
            "schema_version": SCHEMA_VERSION,
            "file": str(file),
            "version": tried.version,
            "passed": len(results) - len(failed),
            "failed": len(failed),
            "tests": [_test_row(result) for result in results],
        }
        emit_document(document, output, list)
    if failed:
        raise click.exceptions.Exit(FAILED)


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--call", "text", required=True, metavar="JSON", help="The call, @FILE, or - for stdin.")
@output_option()
def explain(file: Path, text: str, output: str) -> None:
    """Decide on one call and show what every rule had to do with it.

    Exit status: 0 whatever the decision, 2 the call cannot be read, 3 the file is invalid.
    """
    from crewkeeper_bus.redaction import TooDeep
    from crewkeeper_supervisor.gate.cleaning import clean
    from crewkeeper_supervisor.shell.policy_file import read_policy
    from crewkeeper_supervisor.views.wording import safe

    loaded = read_policy(file)
    call = loaded.placed(_read_call(text))
    with hooks_of(loaded) as hooks:
        told = loaded.policy(hooks).explain(call)
    try:
        after, found = clean(call.args, told.decision.redactions)
    except TooDeep as error:
        raise Failure(f"the arguments cannot be redacted, so the call does not go on: {error}") from None
    if output not in ("table", "wide"):
        document = {
            "schema_version": SCHEMA_VERSION,
            "file": str(file),
            "call": call,
            "decision": told.decision,
            "rules": told.rules,
            "args": after,
            "redacted": found,
        }
        emit_document(document, output, list)
        return
    for row in _explained(told, {rule.id: rule.when for rule in loaded.rules}):
        write(row)
    if found:
        write(f"arguments go on as {safe(msgspec.json.encode(after).decode())}")


def _read_call(text: str) -> "Call":
    from crewkeeper_supervisor.gate.call import Call

    data = text.encode("utf-8", "surrogateescape")
    if text == "-":
        data = sys.stdin.buffer.read(_CALL_MAX_BYTES + 1)
    elif text.startswith("@"):
        with Path(text[1:]).open("rb") as stream:
            data = stream.read(_CALL_MAX_BYTES + 1)
    if len(data) > _CALL_MAX_BYTES:
        raise Failure(f"the call is larger than {_CALL_MAX_BYTES // 1024 // 1024} MiB", code=USAGE)
    try:
        return msgspec.json.decode(data, type=Call)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Failure(f"the call cannot be read: {error}", code=USAGE, remedy=f"--call '{_EXAMPLE}'") from None


def _check_one(file: Path, *, hooks: bool) -> dict[str, Any]:
    """The result for one file, as `-o json` prints it."""
    from crewkeeper_supervisor.gate.policy import HookFailed
    from crewkeeper_supervisor.shell.crew_problems import CrewFileError
    from crewkeeper_supervisor.shell.policy_file import read_policy

    try:
        loaded = read_policy(file)
    except CrewFileError as error:
        problems = [msgspec.to_builtins(problem) for problem in error.problems]
        return {"file": str(file), "ok": False, "problems": problems, "omitted": error.omitted}
    compiled = loaded.policy()
    errors: dict[str, str] = {}
    if hooks and compiled.hook_names:
        with hooks_of(loaded) as process:
            try:
                errors = process.check()
            except HookFailed as error:
                errors = dict.fromkeys(compiled.hook_names, str(error))
    return {
        "file": str(file),
        "ok": not errors,
        "problems": [],
        "omitted": 0,
        "hooks": errors,
        "warnings": [msgspec.to_builtins(warning) for warning in loaded.warnings],
        "rules": len(loaded.rules),
        "tests": len(loaded.trials),
        "shadow": [rule.id for rule in loaded.rules if rule.shadow],
        "default": loaded.default,
        "version": compiled.version,
    }


def _print_checked(result: dict[str, Any]) -> None:
    """The verdict on stdout, everything else on stderr."""
    from crewkeeper_supervisor.shell.crew_problems import Problem, render
    from crewkeeper_supervisor.views.wording import safe

    told = [msgspec.convert(each, Problem) for each in (*result["problems"], *result.get("warnings", ()))]
    if told:
        say(render(told, result["omitted"]))
    for hook, error in result.get("hooks", {}).items():
        say(f"{result['file']}: error: the hook {hook} cannot be used: {safe(error)}")
    if not result["ok"]:
        say(f"{result['file']}: refused")
        return
    shadow = f", {len(result['shadow'])} in shadow" if result["shadow"] else ""
    write(
        f"{result['file']}: ok: {result['rules']} rules{shadow}, {result['tests']} tests, "
        f"otherwise {result['default']}; version {result['version']}"
    )


def _test_row(result: "TrialResult") -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(result)
    return {"ok": not result.problems, **row}


def _print_tests(file: Path, loaded: "PolicyFile", results: "list[TrialResult]") -> None:
    from crewkeeper_supervisor.views.wording import safe

    for result in results:
        write(f"{'FAIL' if result.problems else 'ok  '}  {safe(result.name)}")
        for problem in result.problems:
            write(f"      {file}:{result.line}: {safe(problem)}")
    if not results:
        say(f"{file}: {len(loaded.rules)} rules and no tests; keep some under policy.tests")
        return
    failed = sum(bool(result.problems) for result in results)
    write(f"{len(results) - failed} of {len(results)} tests passed")


def _explained(told: "Explanation", conditions: dict[str, str]) -> list[str]:
    """The explanation, a line for each rule and the decision at the end."""
    from crewkeeper_supervisor.views.wording import safe

    width = max((len(each.rule) for each in told.rules), default=0)
    rows = []
    for each in told.rules:
        condition = " ".join(conditions.get(each.rule, "").split())
        value = "" if each.value is None else f"  [{safe(condition)} is {str(each.value).lower()}]" if condition else ""
        detail = f": {safe(each.detail)}" if each.detail else ""
        rows.append(f"{each.rule:<{width}}  {each.do:<7}  {each.outcome}{detail}{value}")
    decision = told.decision
    by = f"rule {decision.rule}" if decision.rule else "the default: no rule decides"
    because = f", because {safe(decision.because)}" if decision.because and decision.rule else ""
    rows.append(f"=> {decision.effect} by {by}{because}")
    if decision.error:
        rows.append(f"   could not be evaluated: {safe(decision.error)}")
    rows.append(f"   policy version {decision.version}")
    return rows
