"""What holds for every command: formats, watching, consent, words of help; found by walking the tree of commands."""

import io
import json
import subprocess
import sys

import click
import msgspec
import pytest

from crewkeeper_supervisor.cli import failure, main, output, watching
from crewkeeper_supervisor.cli.consent import confirm
from crewkeeper_supervisor.cli.deed import Deed, tell
from crewkeeper_supervisor.views.tables import Table

WITHOUT_FORMATS = {
    # They run until they are ended, and show their work as it goes on.
    "demo": "a story on a terminal",
    "up": "runs a crew",
    "dev": "runs a crew",
    "serve": "runs a controller",
    "host": "runs a host",
    "launch": "hands a crew over to hosts, and prints its run",
    "model-proxy": "runs a proxy",
    "mcp proxy": "runs a proxy",
    "mcp gateway": "runs a gateway",
    "approvals serve": "runs a site",
    # What they print has one form that others read.
    "agent logs": "the bytes of a log",
    "redact": "a filter",
    "import": "a recorded run",
    "audit import": "a file",
    "audit keys": "a file",
    "completion": "a script",
    "crew schema": "a JSON Schema",
    "chaos schema": "a JSON Schema",
    "schema": "a JSON Schema",
    "creds block": "a piece of configuration",
    "creds signing-key": "keeps a key",
    "approvals token": "a secret",
    "init": "files",
    "chaos init": "a file",
    "chaos report": "a file",
    "chaos replay": "lines of a comparison",
    "chaos faults": "a page",
    "metrics rules": "a file",
    "metrics dashboard": "a file",
}
"""Commands without `-o`, and why; one that is not in the tree is no mistake, as some are added elsewhere."""
WATCHED = {"ls", "ps", "describe", "deliveries"}
STANDING = {"metrics ls"}
"""Lists of what never changes."""
CHANGES = {
    *("pause", "resume", "kill", "approve", "deny", "answer", "goal", "set", "top-up", "redeliver"),
    *("apply", "pin", "forget", "ack", "resolve", "use", "add", "rm", "down", "issue", "revoke", "up", "launch"),
}
ASKS = {"pause", "kill", "approve", "deny", "redeliver", "forget", "down"}
"""What cannot be undone is asked for."""


def leaves(group=main.cli, path=()):
    """Every command that is no group: its words and itself."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


LEAVES = dict(leaves())
each = pytest.mark.parametrize("name", LEAVES)


def options(command):
    return {word: param for param in command.params for word in (*param.opts, *param.secondary_opts)}


@each
def test_every_command_takes_the_six_formats(name):
    option = options(LEAVES[name]).get("--output")
    if name in WITHOUT_FORMATS:
        assert option is None or "-o" not in option.opts or not isinstance(option.type, click.Choice)
        return
    assert option is not None, f"give `supervisor {name}` @output_option(), or say here why not"
    assert "-o" in option.opts
    assert isinstance(option.type, output.Format), "use cli.output.output_option"
    assert tuple(option.type.choices[:6]) == output.FORMATS


@each
def test_what_is_listed_can_be_watched(name):
    last = name.rpartition(" ")[2]
    if last in WATCHED and name not in STANDING:
        option = options(LEAVES[name]).get("--watch")
        assert option is not None, f"give `supervisor {name}` @watch_option"
        assert "-w" in option.opts


@each
def test_what_changes_something_can_be_tried_and_asks(name):
    last, known = name.rpartition(" ")[2], options(LEAVES[name])
    if last in CHANGES:
        assert "--dry-run" in known, f"give `supervisor {name}` @dry_run_option"
    if last in ASKS:
        assert "--yes" in known, f"give `supervisor {name}` @yes_option"
    if "--yes" in known:
        assert "-y" in known["--yes"].opts


@each
def test_one_option_is_spelled_one_way(name):
    known = options(LEAVES[name])
    for short, long in (("-o", "--output"), ("-w", "--watch"), ("-y", "--yes"), ("-f", "--follow"), ("-a", "--all")):
        if short in known:
            assert long in known[short].opts, f"supervisor {name}: {short} means {long} everywhere else"


@each
def test_every_command_and_option_says_what_it_is_for(name):
    command = LEAVES[name]
    first = (command.help or "").split("\n\n")[0].strip()
    assert first.endswith((".", ".)")), f"supervisor {name}"
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden and param.help is not None:
            assert param.help.rstrip().endswith((".", "…")), f"supervisor {name} {param.opts[0]}: {param.help!r}"


@pytest.mark.parametrize("name", sorted({leaf.partition(" ")[0] for leaf in LEAVES if " " in leaf}))
def test_lists_of_commands_are_not_cut(name, capsys):
    assert main.run([name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for leaf, command in LEAVES.items():
        if leaf.startswith(f"{name} ") and leaf.count(" ") == 1:
            first = " ".join((command.help or "").partition("\n\n")[0].split())
            assert first in shown, leaf


def test_the_tree_is_walked():
    assert len(LEAVES) > 50
    assert {"ps", "agent kill", "hooks deliveries"} <= set(LEAVES)


# --- the formats ---


class Row(msgspec.Struct):
    name: str
    text: str


class Document(msgspec.Struct):
    ok: bool
    rows: tuple[Row, ...] = ()


HOSTILE = "evil\x1b[2J\u202egnp\nnext"


def shown(capsys, form, *, page=()):
    document = Document(ok=True, rows=(Row("a", HOSTILE), Row(HOSTILE, "b")))
    output.emit_document(document, form, lambda: page)
    return capsys.readouterr().out


@pytest.mark.parametrize("form", ["json", "jsonl", "yaml", "name"])
def test_hostile_text_is_inert_in_every_format(form, capsys):
    out = shown(capsys, form)
    assert "\x1b" not in out
    assert "\u202e" not in out
    if form == "jsonl":
        assert len(out.splitlines()) == 1
        assert json.loads(out)["rows"][0]["text"] == HOSTILE
    if form == "name":
        assert out.splitlines()[0] == "a"
        assert len(out.splitlines()) == 2


def test_text_is_another_word_for_table(capsys):
    @click.command()
    @output.output_option("dot")
    def command(output):
        click.echo(output)

    for word, expected in (("text", "table"), ("table", "table"), ("dot", "dot"), ("jsonl", "jsonl")):
        command.main(["-o", word], standalone_mode=False)
        assert capsys.readouterr().out == expected + "\n"
    with pytest.raises(click.BadParameter):
        command.main(["-o", "xml"], standalone_mode=False)


def test_a_list_in_all_formats(capsys):
    rows = [Row("a", "1"), Row("b", "2")]

    def emitted(form):
        table = lambda wide: Table(columns=("NAME",), rows=(("a wide" if wide else "a",),))  # noqa: E731
        output.emit_rows(rows, form, table=table)
        return capsys.readouterr().out

    assert emitted("table") == "NAME\na\n"
    assert "a wide" in emitted("wide")
    assert [row["name"] for row in json.loads(emitted("json"))["items"]] == ["a", "b"]
    assert [json.loads(line)["text"] for line in emitted("jsonl").splitlines()] == ["1", "2"]
    assert emitted("yaml").startswith("items:\n- name: a")
    assert emitted("name") == "a\nb\n"


def test_hostile_names_of_a_list_are_inert(capsys):
    output.emit_rows([Row(HOSTILE, "")], "name", table=lambda _: Table(columns=(), rows=()))
    output.emit_secret(Row(HOSTILE, ""), "name", list)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 2
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_what_has_no_name_says_so():
    with pytest.raises(failure.Failure, match="no name") as raised:
        output.emit_document({"ok": True}, "name", list)
    assert raised.value.code == failure.USAGE


def test_a_deed_tells_what_came_of_it(capsys):
    deed = Deed(action="goal", name="trip-1", ok=False, text=("not taken",))
    assert tell(deed, "table") == failure.FAILED
    assert capsys.readouterr().out == "not taken\n"
    assert tell(deed, "name") == failure.FAILED
    assert capsys.readouterr().out == "trip-1\n"


# --- consent ---


def test_without_a_terminal_nothing_is_done_unasked(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(failure.Failure, match="no terminal") as raised:
        confirm("kill everything?", yes=False)
    assert (raised.value.code, raised.value.remedy) == (failure.USAGE, "--yes")
    confirm("kill everything?", yes=True)


def test_no_input_asks_nobody_and_lasts_one_command(monkeypatch):
    monkeypatch.delenv("CREWKEEPER_NO_INPUT", raising=False)
    seen = []

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\nn\n"))
    with pytest.raises(failure.Failure, match="not done"):
        confirm("kill everything?", yes=False)

    @click.command()
    def command():
        with pytest.raises(failure.Failure, match="no terminal"):
            confirm("kill everything?", yes=False)
        seen.append("asked nobody")

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: command)
    assert main.run(["--no-input", "ps"]) == 0
    assert seen == ["asked nobody"]
    with pytest.raises(failure.Failure, match="not done"):
        confirm("kill everything?", yes=False)


def test_quiet_leaves_errors_alone(capsys, monkeypatch):
    monkeypatch.setenv("CREWKEEPER_QUIET", "1")
    output.say("by the way")
    failure.report(failure.Failure("it is gone"))
    assert capsys.readouterr().err == "error: it is gone\n"


# --- watching ---


def watched(monkeypatch, pages, form="table"):
    """Run a watched command that shows these pages, one after the other, and is interrupted."""
    left = iter(pages)

    @click.command()
    @watching.watch_option
    @output.output_option()
    def command(output):
        click.echo(next(left), nl=False)

    def sleep(_seconds):
        nonlocal pages
        pages = pages[1:]
        if not pages:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", sleep)
    with pytest.raises((KeyboardInterrupt, click.Abort)):
        command.main(["-w", "-o", form], standalone_mode=False)


def test_watching_tells_what_is_new(monkeypatch, capsys):
    watched(monkeypatch, ["a up 1s ago\nb up 2s ago\n", "a up 2s ago\nb up 3s ago\n", "a up 3s ago\nb down 1s ago\n"])
    assert capsys.readouterr().out == "a up 1s ago\nb up 2s ago\nb down 1s ago\n"


def test_watching_writes_whole_documents(monkeypatch, capsys):
    watched(monkeypatch, ["{\n1\n}\n", "{\n1\n}\n", "{\n2\n}\n"], form="json")
    assert capsys.readouterr().out == "{\n1\n}\n{\n2\n}\n"


def test_watching_clears_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(watching, "is_live", lambda _out: True)
    watched(monkeypatch, ["one\n", "two\n"])
    assert capsys.readouterr().out.split("\x1b[H\x1b[2J\x1b[3J") == ["", "one\n", "two\n"]


# --- quick help ---

HEAVY = {
    *("nats", "rich", "networkx", "yaml", "httpx2", "structlog", "standardwebhooks", "cel_expr_python"),
    *("jsonschema_rs", "genai_prices", "starlette", "uvicorn", "opentelemetry", "prometheus_client"),
}
LOOK = """
import sys
import click
from crewkeeper_supervisor.cli import main
context = click.Context(main.cli)
known = set()
for name in main.COMMANDS:
    main.cli.get_command(context, name).get_help(context)
    loaded = {each.partition(".")[0] for each in sys.modules} & set(sys.argv[1:]) - known
    known |= loaded
    print(*([name, "loads", *sorted(loaded)] if loaded else []), end="\\n" if loaded else "")
"""


def test_no_help_loads_what_is_slow_to_load():
    done = subprocess.run([sys.executable, "-c", LOOK, *HEAVY], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "", "import it in the function that uses it"
