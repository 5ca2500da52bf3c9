"""The `supervisor` command: the tree of commands, loaded one by one when used, and the last word on every error.

Help must be quick, so this file and `failure` import nothing but click; a test holds them to it.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Final

try:
    import click
except ModuleNotFoundError as missing:
    # The light client installs this command too, without what it needs.
    sys.exit(f"error: {missing.name} is missing: install the supervisor with pip install 'crewkeeper[supervisor]'")

from crewkeeper_supervisor.cli.failure import report

COMPLETING: Final = "_SUPERVISOR_COMPLETE"
"""Set by the shell while it completes."""
_PACKAGE: Final = "crewkeeper_supervisor.cli"

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("demo:demo", "Watch a small crew deadlock, be freed, and finish its work."),
    "init": ("init:init", "Write a new crew to start from."),
    "up": ("up:up", "Run crews here, with a live view, until they are done."),
    "dev": ("dev:dev", "Run crews while you write them: started again when their files change."),
    "launch": ("launch:launch", "Start crews on the hosts of a server, and return at once."),
    "host": ("host:host", "Take agents of runs that were launched on a server, and run them here until told to end."),
    "hosts": ("host:hosts", "List the hosts that take agents, and what they run."),
    "down": ("down:down", "Stop a run: all its agents, in order."),
    "serve": ("serve:serve", "Run a controller: it watches runs and acts."),
    "controllers": ("controllers:controllers", "List controllers: their runs, how far behind they are, how they are."),
    "drain": ("drain:drain", "Have a controller hand over its runs and end, as before an upgrade."),
    "model-proxy": ("model_proxy:model_proxy", "Run the model proxy of a run."),
    "ps": ("ps:ps", "List runs."),
    "top": ("top:top", "Show agents live: state, waits, what each does and costs a minute."),
    "agent": ("agent:agent", "List, describe, pause, resume and kill agents, read their logs."),
    "pause": ("pause:pause", "Pause all agents of a run, and say truthfully what came of it."),
    "resume": ("pause:resume", "Let all agents of a run go on, and say truthfully what came of it."),
    "creds": ("creds:creds", "Issue, list and revoke what agents log in with."),
    "graph": ("graph:graph", "Show who waits for whom."),
    "events": ("events:events", "Tell what happened, from the journal."),
    "incidents": ("incidents:incidents", "List, show, acknowledge and close what the supervisor found."),
    "responses": ("responses:responses", "Show what was done about findings, and what shadow mode would have done."),
    "goal": ("goal:goal", "Change what a run is for."),
    "questions": ("questions:questions", "List and answer what agents ask people."),
    "budget": ("budget:budget", "Show and change what a run may spend."),
    "approvals": ("approvals:approvals", "List, show, approve and deny calls that wait for a person."),
    "hooks": ("hooks:hooks", "List, test, repeat and change the webhooks that people are told by."),
    "why": ("why:why", "Explain a finding, a grant or refusal, a kill or pause, a call, an agent, or how a run ended."),
    "timeline": ("why:timeline", "Tell the story of a run: what turned it, with what agents said in between counted."),
    "replay": ("replay:replay", "Decide a run again from its journal, and fail if that differs from its ledger."),
    "backtest": ("backtest:backtest", "Say what other rules would have decided upon a recorded run."),
    "audit": ("audit:audit", "Verify, export and import what is recorded of runs."),
    "crew": (
        "crew:crew",
        "Check crew files, print their schema; list, describe, pause, resume, kill running crews.",
    ),
    "policy": ("policy:policy", "Check, test, explain and apply policy rules."),
    "metrics": ("metrics:metrics", "List metrics; print alert rules and a dashboard for them."),
    "mcp": ("mcp:mcp", "Put MCP servers behind the gate."),
    "tools": ("tools:tools", "List, compare and pin the tools of MCP servers."),
    "redact": ("redact:redact", "Replace secrets and personal data between stdin and stdout."),
    "simulate": ("simulate:simulate", "Run the supervisor's core against simulated crews and faults."),
    "run": ("run:run", "Run scenarios: those named, or those that come along."),
    "chaos": ("chaos:chaos", "Prove what holds when things go wrong, in simulation and on real processes."),
    "analyze": ("analyze:analyze", "Say what follows from situations written down, offline."),
    "import": ("import_:import_", "Turn OpenTelemetry traces of agents into recorded runs."),
    "wait": ("wait:wait", "Wait until something is so."),
    "check": ("check:check", "Check how crews are: one run, or all that are active."),
    "explain": ("explain:explain", "Say what a code means, and what to do about it."),
    "doctor": ("doctor:doctor", "Check this installation and the server."),
    "context": ("context:context", "List, choose, add and remove contexts: names for servers."),
    "config": ("config:config", "Show which settings are in force here, and where each comes from."),
    "schema": ("schema:schema", "Print a JSON Schema: of a file that you write, or of what commands print."),
    "bench": (
        "bench:bench",
        "Measure how fast this machine is at what the supervisor does: a few seconds, on a server of its own.",
    ),
    "cheat": ("cheat:cheat", "Show what is typed most, by what one wants."),
    "completion": ("completion:completion", "Print shell completion for bash, zsh or fish."),
    "version": ("version:version", "Print the versions in use."),
}
"""Name of each command, where it is, and its one line of help (a test keeps it equal to the command's own)."""


def _list_whole(group: click.Group) -> None:
    """Let the lists of its commands wrap what each is for, where they would be cut in the middle."""
    for inner in group.commands.values():
        if inner.short_help is None:
            inner.short_help = (inner.help or "").partition("\n\n")[0].replace("\n", " ")
        if isinstance(inner, click.Group):
            _list_whole(inner)


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        if isinstance(command, click.Group):
            _list_whole(command)
        if COMPLETING in os.environ:
            from crewkeeper_supervisor.cli.live_values import attach

            attach(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Help from the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with near names for a mistyped one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=3)
            hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
            ctx.fail(f"no such command {args[0][:60]!r}{hint}")
        return super().resolve_command(ctx, args)


def _no_color(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        # The environment, so that every library and child process follows.
        os.environ["NO_COLOR"] = "1"


def _for_now(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    """Set a variable of the environment for as long as the command lasts."""

    def set_it(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and name not in os.environ:
            os.environ[name] = "1"
            ctx.call_on_close(lambda: os.environ.pop(name, None))

    return set_it


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 invalid file or setting, 4 no server, 5 not found, "
    "124 timed out, 130 interrupted.",
)
@click.option("--no-color", is_flag=True, expose_value=False, is_eager=True, callback=_no_color, help="No colours.")
@click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_for_now("CREWKEEPER_QUIET"),
    help="Nothing on stderr but errors.",
)
@click.option(
    "--no-input",
    is_flag=True,
    expose_value=False,
    callback=_for_now("CREWKEEPER_NO_INPUT"),
    help="Never ask: fail where a confirmation is needed and --yes is not given.",
)
def cli() -> None:
    """Supervise crews of AI agents on NATS: see who waits for whom, break deadlocks, pause, kill, tell people."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code; nothing escapes but what CREWKEEPER_DEBUG asks for."""
    try:
        # Standalone mode would exit by itself, with codes and texts that are not ours.
        result: Any = cli.main(args=arguments, prog_name="supervisor", standalone_mode=False)
    except BaseException as error:
        if os.environ.get("CREWKEEPER_DEBUG"):
            raise
        return report(error)
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the `supervisor` command."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show an arrow must not be the end of a command.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    code = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe went away: say nothing more, also not at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
