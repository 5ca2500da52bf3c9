"""The commands that look at runs, on a real server whose journal holds a deadlock."""

import io
import json

import anyio
import pytest
import yaml
from looking import INCIDENT, OTHER, look, state
from told_runs import RUN

from crewkeeper_bus.subjects import SUPERVISOR, Kind, build
from crewkeeper_supervisor.cli import agent_log, failure, watching
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.shell import journal
from crewkeeper_supervisor.shell.nats_link import connect
from crewkeeper_supervisor.shell.place import Place

pytestmark = pytest.mark.live
__all__ = ["look", "state"]  # fixtures


def test_ps_lists_active_runs_and_says_what_it_hides(look):
    code, out, err = look("ps")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert out.splitlines()[1].split()[:3] == [RUN, "trip", "running"]
    assert "1 more" in err
    assert look("ps", "--all", "-o", "name")[1].split() == [OTHER, RUN]


def test_ps_as_data(look):
    document = json.loads(look("ps", "-o", "json")[1])
    assert document["schema_version"] == 1
    (item,) = document["items"]
    assert item["run"] == RUN
    assert len(item["waits"]) == 2
    assert yaml.safe_load(look("ps", "-o", "yaml")[1])["items"][0]["run"] == RUN
    assert json.loads(look("ps", "-o", "jsonl")[1])["run"] == RUN


@pytest.mark.parametrize("name", [(), (RUN,), ("trip",), (RUN[:8],)])
def test_a_run_can_be_named_in_four_ways(look, name):
    code, out, _ = look("agent", "ls", *name)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["planner", "reviewer", "executor"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("graph", "trpi"), "did you mean 'trip'"),
        (("agent", "describe", "planer"), "did you mean 'planner'"),
        (("incidents", "show", "F99-0"), "supervisor incidents ls"),
        (("events", "nobody"), "supervisor ps --all"),
        (("agent", "logs", "planner"), "there is no log"),
        (("questions", "answer", "q9", "yes"), "is no open question"),
    ],
)
def test_what_is_not_there_is_exit_code_5(look, arguments, hint):
    code, out, err = look(*arguments)
    assert code == failure.NOT_FOUND
    assert out == ""
    assert hint in err


def test_the_graph_in_every_format(look):
    assert look("graph")[1].startswith("DEADLOCK: planner, reviewer\n")
    assert look("graph", "trip", "-o", "dot")[1].startswith(f'digraph "{RUN}"')
    assert look("graph", "-o", "mermaid")[1].startswith("flowchart LR")
    assert json.loads(look("graph", "-o", "json")[1])["rings"] == [["planner/main", "reviewer/h1"]]
    assert look("graph", "--watch", "-o", "dot")[0] == failure.USAGE


def test_events_tell_the_story(look):
    code, out, _ = look("events")
    assert code == 0
    assert "planner asks reviewer 'approve'" in out
    assert f"DEADLOCK {INCIDENT}: reviewer → planner → reviewer" in out
    assert "is alive" not in out
    assert "planner is alive" in look("events", "--all")[1]
    assert look("events", "--since", "1ms")[1] == ""
    assert look("events", "--since", "10m")[1] == out
    assert look("events", "--since", "soon")[0] == failure.USAGE


def test_events_as_data_are_the_journal(look):
    lines = [json.loads(line) for line in look("events", "-o", "jsonl")[1].splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0]["type"] == "RunDeclared"


def test_events_of_a_type_or_an_agent(look):
    def told(*more):
        return [json.loads(line) for line in look("events", *more, "-o", "jsonl")[1].splitlines()]

    assert {line["type"] for line in told("--type", "request", "--type", "Heartbeat")} == {"Request", "Heartbeat"}
    (line,) = look("events", "--type", "deadlock")[1].splitlines()
    assert f"DEADLOCK {INCIDENT}" in line
    (found,) = told("--type", "deadlock")
    assert f"{found['seq']}-" in INCIDENT
    assert all(
        "executor" in (each["from"], each["to"], each["message"].get("agent")) for each in told("--agent", "executor")
    )
    assert len(told("--agent", "executor")) < len(told())
    code, _, err = look("events", "--type", "reqest")
    assert (code, "did you mean 'request'" in err) == (failure.USAGE, True)
    code, _, err = look("events", "--agent", "planer")
    assert (code, "did you mean 'planner'" in err) == (failure.NOT_FOUND, True)
    assert look("events", "shop", "-f", "--agent", "planer")[0] == failure.NOT_FOUND


def test_following_ends_with_the_run(look):
    code, out, _ = look("events", "-f", "shop")
    assert code == 0
    assert out.splitlines()[-1].endswith("the run is over: done: the work is done")
    assert json.loads(look("graph", "--watch", "shop", "-o", "json")[1])["edges"] == []
    code, out, _ = look("graph", "--watch", "shop")
    assert out.splitlines()[-1] == "Nobody waits for anybody."


def test_a_timeline_goes_on_until_the_run_is_over(look):
    code, out, _ = look("timeline", "-w", "shop")
    assert (code, out) == (0, look("timeline", "shop")[1])
    code, _, err = look("timeline", "-w", "shop", "-o", "json")
    assert (code, "-w has no end" in err) == (failure.USAGE, True)


def test_incidents_of_all_runs(look):
    code, out, _ = look("incidents", "ls", "--open", "-o", "name")
    assert code == 0
    assert out.split() == [INCIDENT]
    assert look("incidents", "ls", OTHER)[1] == ""


def test_an_incident_by_id(look):
    code, out, _ = look("incidents", "show", INCIDENT)
    assert code == 0
    assert out.startswith(f"DEADLOCK {INCIDENT} in run {RUN}: ")
    assert look("incidents", "show", "trip", INCIDENT.lower())[1].splitlines()[2:] == out.splitlines()[2:]
    document = json.loads(look("incidents", "show", INCIDENT, "-o", "json")[1])
    assert document["victim"]["agent"] == "reviewer"
    assert document["ring"] == ["reviewer", "planner", "reviewer"]


def test_an_agent_whole(look):
    code, out, _ = look("agent", "describe", "trip", "planner")
    assert code == 0
    assert "Waited for by" in out
    assert json.loads(look("agent", "describe", "planner", "-o", "json")[1])["agent"]["status"] == "up"


def test_logs_are_shown_harmless_or_raw(state, capfdbinary, monkeypatch):
    monkeypatch.setenv("CREWKEEPER_STATE", str(state))
    log = state / "runs" / RUN / "logs" / "executor.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"one\n\x1b[31mtwo\xff\nthree\n")
    assert run(["agent", "logs", "executor"]) == 0
    assert capfdbinary.readouterr().out == b"one\n\\x1b[31mtwo\\xff\nthree\n"
    assert run(["agent", "logs", "-n", "1", RUN, "executor"]) == 0
    assert capfdbinary.readouterr().out == b"three\n"
    assert run(["agent", "logs", "--raw", "executor"]) == 0
    assert capfdbinary.readouterr().out == log.read_bytes()
    (log.parent / "planner.log").write_bytes(b"plan")
    assert run(["agent", "logs", "--all", "-n", "1"]) == 0
    assert capfdbinary.readouterr().out == b"executor | three\nplanner  | plan"
    assert run(["agent", "logs", "--all", RUN, "executor"]) == run(["agent", "logs"]) == failure.USAGE
    (log.parent / "planner.log").unlink()


def follow(logs, turns, monkeypatch, *, every=False):
    """Print logs as they grow: each turn changes them while their reader sleeps; after the last it is interrupted."""
    left = iter(turns)

    def sleep(_seconds):
        turn = next(left, None)
        if turn is None:
            raise KeyboardInterrupt
        turn()

    monkeypatch.setattr(agent_log.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        agent_log.print_logs(logs, True, None, False, every=every)


def test_logs_are_followed_into_new_files(tmp_path, monkeypatch, capsys):
    log = tmp_path / "a.log"
    log.write_text("one\nhalf")

    def rotated():
        log.rename(tmp_path / "a.log.1")

    turns = [lambda: log.write_text("one\nhalf of two\n"), rotated, lambda: log.write_text("three\n")]
    follow({"a": log}, turns, monkeypatch)
    assert capsys.readouterr().out == "one\nhalf of two\nthree\n"


def test_logs_of_agents_that_come_later_are_followed_too(tmp_path, monkeypatch, capsys):
    log, later = tmp_path / "a.log", tmp_path / "b.log"
    log.write_text("one\n")
    follow(
        {"a": log}, [lambda: later.write_text("two\nhalf"), lambda: later.write_text("two\nhalf too\n")], monkeypatch
    )
    assert capsys.readouterr().out == "one\n", "one agent was asked for"
    later.unlink()
    turns = [lambda: later.write_text("two\nhalf"), lambda: later.write_text("two\nhalf too\n")]
    follow({"a": log}, turns, monkeypatch, every=True)
    assert capsys.readouterr().out == "a | one\nb | two\nb | half too\n"


def test_lines_of_logs_that_stand_together_are_whole(tmp_path, monkeypatch, capsys):
    logs = {name: tmp_path / f"{name}.log" for name in ("a", "b")}
    for log in logs.values():
        log.write_text("one\nhalf")
    agent_log.print_logs(logs, False, None, False)
    assert capsys.readouterr().out == "a | one\na | half\nb | one\nb | half"
    turns = [lambda: logs["b"].write_text("one\nhalf of two\n"), lambda: logs["a"].write_text("one\nhalf too\n")]
    follow(logs, turns, monkeypatch)
    assert capsys.readouterr().out == "a | one\nb | one\nb | half of two\na | half too\n"


def test_empty_lists_are_a_word_on_stderr(look):
    code, out, err = look("questions", "ls")
    assert (code, out) == (0, "")
    assert "no open questions" in err


def test_nothing_is_done_without_a_yes(look, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = look("agent", "kill", "planner")
    assert code == failure.USAGE
    assert "--yes" in err
    before = look("events", "--all")[1]
    code, out, _ = look("agent", "kill", "planner", "--dry-run")
    assert code == 0
    assert "would ask to kill planner of trip-000001 (process 4000, up; waited for by reviewer)" in out
    assert look("events", "--all")[1] == before


def test_without_a_controller_the_outcome_of_a_kill_is_unknown(look):
    code, out, _ = look("agent", "kill", "executor", "--yes", "--timeout", "0.5", "-o", "json")
    assert code == failure.FAILED
    result = json.loads(out)
    assert result["outcome"] == "unknown"
    assert not result["ok"]
    assert [proof["text"].partition(" asks ")[2] for proof in result["evidence"]] == ["to kill executor"]


def garble(id_):
    """Have an agent say what cannot be read."""

    async def said():
        async with connect(Place.find(), name="test") as link:
            await journal.publish(link, build(RUN, Kind.NOTE, "executor", SUPERVISOR, id_), b"{")
            await link.flush()

    anyio.run(said)


def test_a_check_is_watched(look, monkeypatch):
    looks = []

    def sleep(_seconds):
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", sleep)
    code, out, _ = look("check", RUN, "-w", "-o", "jsonl")
    assert (code, len(looks)) == (failure.INTERRUPTED, 3)
    words = [json.loads(line)["word"] for line in out.splitlines()]
    assert words[0] == look("check", RUN, "-o", "name")[1].strip()


def test_what_is_watched_is_read_on_and_not_anew(look, monkeypatch):
    begun, looks, follow = [], [], journal.follow

    def following(link, run, start_seq=1):
        begun.append(start_seq)
        return follow(link, run, start_seq)

    def sleep(_seconds):
        looks.append(len(begun))
        if len(looks) == 3:
            raise KeyboardInterrupt
        if len(looks) == 2:
            garble("n999")

    monkeypatch.setattr(journal, "follow", following)
    monkeypatch.setattr(watching.time, "sleep", sleep)
    code, out, _ = look("crew", "describe", RUN, "-w", "-o", "jsonl")
    assert code == failure.INTERRUPTED
    assert looks == [1, 1, 2], "where nothing is new nothing is read"
    first, *_, last = (json.loads(line)["run"]["seq"] for line in out.splitlines())
    assert begun == [1, first + 1]
    assert last == first + 1


def test_a_person_closes_what_people_judge(look):
    garble("n998")
    code, out, _ = look("incidents", "ls", RUN, "--open", "-o", "jsonl")
    (garbled,) = [row["id"] for row in map(json.loads, out.splitlines()) if row["kind"] == "malformed"]
    assert look("incidents", "resolve", garbled)[0] == failure.USAGE, "why is to be said"
    assert look("incidents", "resolve", garbled, "--reason", " ")[0] == failure.USAGE
    code, _, err = look("incidents", "resolve", INCIDENT, "--reason", "x")
    assert (code, "is a deadlock that stands" in err) == (failure.FAILED, True)
    code, _, err = look("incidents", "resolve", "F999-0", "--reason", "x")
    assert (code, "nothing that stands in trip-000001" in err) == (failure.NOT_FOUND, True)
    code, out, _ = look("incidents", "resolve", garbled, "--reason", "x", "--dry-run")
    assert (code, out) == (0, f"would close {garbled} of {RUN}\n")
    code, out, _ = look("incidents", "resolve", garbled.lower(), "--reason", "it was me", "--timeout", "120")
    assert (code, out) == (0, f"{garbled} of {RUN} is closed; agents are as they were\n")
    assert garbled not in look("incidents", "ls", "--open", "-o", "name")[1].split()
    assert "closed by " in look("incidents", "show", garbled)[1]
    assert f"closes {garbled}: it was me" in look("events")[1]
    assert look("incidents", "resolve", garbled, "--reason", "again")[0] == failure.NOT_FOUND
