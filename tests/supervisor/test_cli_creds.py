"""`supervisor creds` against real servers: what it prints lets a stock client in, and nothing else does."""

import io
import json
import shlex
import stat
import time

import anyio
import pytest
import yaml

from crewkeeper_bus.claims import Key
from crewkeeper_bus.credentials import from_file
from crewkeeper_supervisor.cli import failure
from crewkeeper_supervisor.cli.creds import Span
from crewkeeper_supervisor.cli.main import run
from crewkeeper_supervisor.cli.runs import folded
from crewkeeper_supervisor.core.crew import Agent, Crew
from crewkeeper_supervisor.shell import controller, journal
from crewkeeper_supervisor.shell.authority import Authority
from crewkeeper_supervisor.shell.registry import Registry
from support.login_stage import RUN, both_modes, login_stage, may_publish, until

CREW = Crew(
    name="trip",
    agents=(
        Agent(name="planner", run=("x",)),
        Agent(name="worker", external=True, replicas=2),
        Agent(name="guest", external=True),
    ),
)


class Shell:
    """Commands on a stage's server."""

    def __init__(self, stage, capsys):
        self.capsys = capsys
        self.place = ["--state", str(stage.link.place.state)]
        if stage.authority.mode == "config":
            self.place += ["--nats", stage.url]

    async def __call__(self, *arguments):
        self.capsys.readouterr()
        code = await anyio.to_thread.run_sync(run, [*arguments, *self.place])
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err


async def declared(stage, capsys):
    registry = Registry(stage.link)
    await registry.open()
    await registry.declare(RUN, "trip", "here")
    await journal.create_run(stage.link, RUN, CREW, "here")
    return Shell(stage, capsys)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("CREWKEEPER_NATS_URL", "CREWKEEPER_STATE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.live
@both_modes
async def test_what_is_issued_is_all_that_a_client_needs(mode, tmp_path, capsys):
    async with login_stage(mode, tmp_path) as stage, stage.serving():
        creds = await declared(stage, capsys)
        code, out, err = await creds("creds", "issue", "--run", RUN, "--agent", "guest", "-o", "json")
        assert (code, err) == (0, "")
        given = json.loads(out)
        assert list(given) == ["url", "user", "password", "run", "agent", "expires_at"]
        assert (given["run"], given["agent"], given["user"]) == (RUN, "guest", "r1.guest")
        assert 3500 < given["expires_at"] - time.time() < 3700
        async with stage.knock(given["user"], given["password"]) as client:
            assert given["url"] == stage.url
            assert await may_publish(client, "crew.r1.msg.guest.planner.i")
            assert not await may_publish(client, "crew.r1.msg.planner.guest.i")


@pytest.mark.live
@both_modes
async def test_with_a_controller_running_issuing_is_all_it_takes(mode, tmp_path, capsys):
    async with login_stage(mode, tmp_path) as stage, anyio.create_task_group() as group:
        creds = await declared(stage, capsys)
        group.start_soon(controller.serve, stage.link.place)
        arguments = ("creds", "issue", "--run", "trip", "--agent", "guest", "-o", "json")

        async def issued():
            code, out, _ = await creds(*arguments)
            return json.loads(out) if code == 0 else None

        given = await until(issued, "the controller answers")

        async def let_in():
            return await stage.is_let_in(given["user"], given["password"])

        await until(let_in)
        assert not await stage.is_let_in(given["user"], given["password"] + "x")
        group.cancel_scope.cancel()


@pytest.mark.live
async def test_peers_and_roles_narrow_what_is_issued(tmp_path, capsys):
    async with login_stage("operator", tmp_path) as stage, stage.serving():
        creds = await declared(stage, capsys)
        issue = ("creds", "issue", "--agent", "guest", "-o", "json")
        code, out, _ = await creds(*issue, "--peers", "worker", "--tools", "search, files.read_file")
        assert code == 0
        given = json.loads(out)
        async with stage.knock(given["user"], given["password"]) as client:
            for peer in ("worker", "worker-1", "worker-2"):
                assert await may_publish(client, f"crew.r1.req.guest.{peer}.i")
            assert not await may_publish(client, "crew.r1.req.guest.planner.i")
        record = await stage.access.get(RUN, "guest")
        assert (record.peers, record.tools) == (("worker", "worker-1", "worker-2"), ("search", "files.read_file"))
        gate = (await folded(stage.link, RUN)).supervisor.gate
        assert gate.narrowed == {"guest": ("search", "files.read_file")}  # or nobody would hold it to that
        code, _, err = await creds(*issue, "--tools", "no tool")
        assert (code, "'no tool' is not a valid name" in err) == (failure.USAGE, True), err
        assert (await folded(stage.link, RUN)).supervisor.gate.narrowed == gate.narrowed
        code, out, _ = await creds(*issue, "--peers", "")
        assert code == 0
        assert (await stage.access.get(RUN, "guest")).peers == ()
        code, _, err = await creds(*issue, "--peers", "wroker")
        assert code == failure.NOT_FOUND
        assert "did you mean 'worker'" in err


@pytest.mark.live
async def test_an_instance_of_a_role_gets_the_queue_of_its_role(tmp_path, capsys):
    async with login_stage("operator", tmp_path) as stage, stage.serving():
        creds = await declared(stage, capsys)
        code, out, _ = await creds("creds", "issue", "--agent", "worker-2")
        assert code == 0
        assert "CREWKEEPER_ROLE=worker" in out
        assert (await stage.access.get(RUN, "worker-2")).role == "worker"


@pytest.mark.live
async def test_text_names_the_environment_that_connects_an_agent(tmp_path, capsys):
    async with login_stage("operator", tmp_path) as stage, stage.serving():
        creds = await declared(stage, capsys)
        code, out, _ = await creds("creds", "issue", "--agent", "guest", "--ttl", "30m")
        assert code == 0
        lines = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("  export ")]
        environment = dict(shlex.split(line)[0].split("=", 1) for line in lines)
        assert environment["CREWKEEPER_RUN"] == RUN
        assert environment["CREWKEEPER_SESSION_S"] == "600"
        assert await stage.is_let_in(environment["CREWKEEPER_USER"], environment["CREWKEEPER_PASSWORD"])


@pytest.mark.live
async def test_a_file_is_private_and_nothing_secret_is_printed(tmp_path, capsys):
    async with login_stage("operator", tmp_path) as stage, stage.serving():
        creds = await declared(stage, capsys)
        file = tmp_path / "guest.json"
        for output in ("text", "json", "yaml"):
            code, out, err = await creds("creds", "issue", "--agent", "guest", "--file", str(file), "-o", output)
            assert code == 0
            given = from_file(file, check_permissions=True)
            assert stat.S_IMODE((await anyio.Path(file).stat()).st_mode) == 0o600
            assert await stage.is_let_in(given.user, given.password)
            assert given.session_s == 600
            assert given.password.partition("-")[2] not in out + err
            assert str(file) in out


@pytest.mark.live
async def test_only_agents_of_a_run_that_goes_on_get_credentials(tmp_path, capsys):
    async with login_stage("operator", tmp_path) as stage, stage.serving():
        creds = await declared(stage, capsys)
        for agent, code_, text in (
            ("gest", failure.NOT_FOUND, "did you mean 'guest'"),
            ("worker", failure.NOT_FOUND, "its agents are worker-1, worker-2"),
            ("zzz", failure.NOT_FOUND, "has no agent 'zzz'"),
        ):
            code, out, err = await creds("creds", "issue", "--agent", agent, "-o", "json")
            assert (code, out) == (code_, "")
            assert text in err
        code, _, err = await creds("creds", "issue", "--agent", "planner", "-o", "json")
        assert code == 0
        assert "started by its host" in err
        code, _, err = await creds("creds", "issue", "--run", "nosuch", "--agent", "guest")
        assert code == failure.NOT_FOUND
        code, _, err = await creds("creds", "issue", "--agent", "guest", "--ttl", "40d")
        assert code == failure.FAILED
        assert "30 days" in err
        await stage.access.set_state(RUN, "guest", "killed", "it flooded")
        code, _, err = await creds("creds", "issue", "--agent", "guest")
        assert code == failure.FAILED
        assert "was killed (it flooded)" in err
        await Registry(stage.link).set_state(RUN, "done")
        code, _, err = await creds("creds", "issue", "--agent", "planner")
        assert code == failure.FAILED
        assert "is over (done)" in err


@pytest.mark.live
async def test_where_nobody_decides_about_logins_nothing_is_issued(tmp_path, capsys):
    async with login_stage("operator", tmp_path) as stage:
        creds = await declared(stage, capsys)
        code, out, err = await creds("creds", "issue", "--agent", "guest", "-o", "json")
        assert (code, out) == (failure.INVALID, "")
        assert "no supervisor decides about logins" in err
        code, out, _ = await creds("creds", "ls", "-o", "json")
        assert (code, json.loads(out)["items"]) == (0, [])
        code, _, err = await creds("creds", "revoke", RUN, "guest")
        assert code == failure.NOT_FOUND


@pytest.mark.live
@both_modes
async def test_revoking_closes_what_is_open_and_keeps_it_out(mode, tmp_path, capsys):
    async with login_stage(mode, tmp_path) as stage, stage.serving():
        creds = await declared(stage, capsys)
        tokens = [(await stage.access.issue(RUN, agent)) for agent in ("guest", "guest", "planner")]
        first, second, other = (each.credentials for each in tokens)
        async with (
            stage.knock(first.user, first.password) as client,
            stage.knock(other.user, other.password) as bystander,
        ):
            code, out, _ = await creds("creds", "revoke", RUN, "guest", "--token", tokens[0].token, "-o", "json")
            assert code == 0
            done = json.loads(out)
            assert (done["tokens"], done["connections"], done["silent"]) == ([tokens[0].token], 1, [])
            await until(client.gone.is_set)
            assert bystander.is_connected
        assert not await stage.is_let_in(first.user, first.password)
        assert await stage.is_let_in(second.user, second.password)
        code, out, _ = await creds("creds", "revoke", RUN, "guest")
        assert code == 0
        assert out.startswith("guest of r1: 1 tokens revoked")
        assert not await stage.is_let_in(second.user, second.password)
        for arguments, text in (
            ((RUN, "gest"), "did you mean 'guest'"),
            ((RUN, "guest", "--token", "nosuchtoken"), "no token 'nosuchtoken'"),
        ):
            code, _, err = await creds("creds", "revoke", *arguments)
            assert code in (failure.FAILED, failure.NOT_FOUND)
            assert text in err


@pytest.mark.live
async def test_a_listing_shows_who_may_come_and_no_secret(tmp_path, capsys):
    async with login_stage("operator", tmp_path) as stage, stage.serving():
        creds = await declared(stage, capsys)
        issued = [await stage.access.issue(RUN, "guest", peers=("planner",)), await stage.access.issue(RUN, "guest")]
        await stage.access.revoke(RUN, "guest", issued[0].token)
        await stage.access.issue("r2", "a", tools=())
        await stage.access.issue("r3", "a")
        await stage.access.end_run("r3")
        secrets = [each.credentials.password.partition("-")[2] for each in issued]
        record = await stage.access.get(RUN, "guest")
        hidden = [*secrets, *(token.digest for token in record.tokens)]
        for output in ("table", "wide", "json", "jsonl", "yaml", "name"):
            code, out, err = await creds("creds", "ls", "-o", output)
            assert code == 0
            assert not [text for text in hidden if text in out + err]
            assert "r3" not in out
        assert out.split() == ["r1.guest", "r2.a"]
        code, out, _ = await creds("creds", "ls", RUN, "-o", "jsonl")
        (row,) = map(json.loads, out.splitlines())
        assert [(token["id"], token["state"]) for token in row["tokens"]] == [
            (issued[0].token, "revoked"),
            (issued[1].token, "in_force"),
        ]
        code, out, _ = await creds("creds", "ls", "-o", "wide")
        assert issued[1].token in out
        assert issued[0].token not in out
        _, out, _ = await creds("creds", "ls", "-o", "yaml")
        assert yaml.safe_load(out)["items"][0]["peers"] == ["planner"]


def test_a_block_has_public_keys_only_and_stays_the_same(tmp_path, capsys):
    state = tmp_path / "state"
    arguments = ["creds", "block", "--state", str(state), "--account", "AGENTS", "--keep-user", "app"]
    assert run(arguments) == 0
    first = capsys.readouterr()
    assert "auth_callout" in first.out
    assert "AGENTS {" in first.out
    assert str(state / "keys") in first.err
    seeds = [
        word for path in (state / "keys").iterdir() for word in path.read_text().split('"') if word[:2] in ("SA", "SU")
    ]
    assert len(seeds) == 4
    assert not [seed for seed in seeds if seed in first.out + first.err]
    assert run(arguments) == 0
    assert capsys.readouterr().out == first.out
    assert run([*arguments[:4], "--account", "OTHER"]) == failure.INVALID
    assert "use another state directory" in capsys.readouterr().err


def test_a_signing_key_is_kept_and_not_shown(tmp_path, capsys, monkeypatch):
    account, signer, other = (Key.make("account") for _ in range(3))
    state = tmp_path / "state"
    arguments = ["creds", "signing-key", "--account", account.public, "--state", str(state)]
    given = tmp_path / "seed"
    given.write_text(f"{signer.seed}\n")
    assert run([*arguments, "--seed-file", str(given)]) == 0
    printed = capsys.readouterr()
    assert str(state / "keys") in printed.err
    assert signer.seed not in printed.out + printed.err
    found = Authority.load(state, "nats://127.0.0.1:4222")
    assert found is not None
    assert found.mode == "signing"
    monkeypatch.setattr("sys.stdin", io.StringIO(other.seed))
    assert run(arguments) == failure.INVALID
    assert "use another state directory" in capsys.readouterr().err
    given.write_text("SAnonsense")
    assert run([*arguments[:4], "--state", str(tmp_path / "new"), "--seed-file", str(given)]) == failure.INVALID
    assert "nonsense" not in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("7d", 604800), ("30m", 1800)])
def test_spans_are_read(text, seconds):
    assert Span().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1", "1w", "1 h", "1e3", "\u0661h", "1h\n"])
def test_what_is_no_span_is_refused(text, capsys):
    assert run(["creds", "issue", "--agent", "a", "--ttl", text]) == failure.USAGE
    assert "no span of time" in capsys.readouterr().err
