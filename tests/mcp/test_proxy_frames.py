"""The proxy between a client that sees the frames and a server that misbehaves, with a gate in memory."""

import json
from pathlib import Path

import anyio
import pytest

from crewkeeper_supervisor.mcp import rpc, upstream
from crewkeeper_supervisor.mcp.offer import Refusal
from crewkeeper_supervisor.mcp.pins import Pins
from support.bus import until
from support.mcp import MemoryDoor, proxied, text_of

ERAS = pytest.mark.parametrize("era", [rpc.LEGACY, rpc.MODERN])


@ERAS
async def test_an_allowed_call_is_carried_out_and_settled(tmp_path: Path, era: str) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.greet(era)
        assert "echo" in await stage.client.tools()
        result = await stage.client.call("echo", text="hello")
        assert text_of(result) == "hello"
        assert stage.door.asked == [("echo", {"text": "hello"})]
        assert [(tool, ok) for tool, ok, _ in stage.door.settled] == [("echo", True)]
        assert stage.door.settled[0][2]["content"] == [{"type": "text", "text": "hello"}]


@ERAS
async def test_a_refused_call_never_reaches_the_server(tmp_path: Path, era: str) -> None:
    door = MemoryDoor()
    door.refuse["echo"] = Refusal("denied", "the tool 'echo' may not be called so")
    async with proxied(tmp_path, door=door) as stage:
        await stage.client.greet(era)
        result = await stage.client.call("echo", text="hello")
        assert result["isError"] is True
        assert "may not be called" in text_of(result)
        assert result["_meta"][rpc.REFUSAL_KEY] == "denied"
        assert stage.said("call") == []


async def test_the_arguments_of_the_grant_are_what_the_server_gets(tmp_path: Path) -> None:
    door = MemoryDoor()
    door.replace["echo"] = {"text": "[redacted]"}
    async with proxied(tmp_path, door=door) as stage:
        await stage.client.handshake()
        assert text_of(await stage.client.call("echo", text="secret")) == "[redacted]"
        assert "secret" not in "".join(stage.said("call"))


@ERAS
async def test_mistakes_are_answered_before_the_gate_is_asked(tmp_path: Path, era: str) -> None:
    async with proxied(tmp_path, prefix="stub") as stage:
        await stage.client.greet(era)
        near = await stage.client.call("ecko", text="x")
        assert near["isError"] is True
        assert "'echo'" in text_of(near)
        wrong = text_of(await stage.client.call("echo", text=7, more=1))
        assert "text: must be string, is integer" in wrong
        missing = text_of(await stage.client.call("echo"))
        assert "text: is required" in missing
        assert stage.door.asked == []
        assert stage.door.unknown == ["stub.ecko"]
        assert stage.said("call") == []
        assert text_of(await stage.client.call("echo", text="x")) == "x"
        assert stage.door.asked == [("stub.echo", {"text": "x"})]


@ERAS
async def test_what_the_gate_does_not_know_is_listed_no_more(tmp_path: Path, era: str) -> None:
    door = MemoryDoor()
    door.never = None
    door.refuse["echo"] = Refusal("unknown_tool", "there is no tool 'echo'")
    async with proxied(tmp_path, door=door) as stage:
        await stage.client.greet(era)
        assert "echo" in await stage.client.tools()
        assert (await stage.client.call("echo", text="x"))["_meta"][rpc.REFUSAL_KEY] == "unknown_tool"
        assert "echo" not in await stage.client.tools()
        told = [frame["method"] for frame in stage.client.told]
        assert told == (["notifications/tools/list_changed"] if era == rpc.LEGACY else [])
        del door.refuse["echo"]
        door.on_joined()
        assert "echo" in await stage.client.tools()
        assert text_of(await stage.client.call("echo", text="x")) == "x"


async def test_what_cannot_be_checked_is_not_offered(tmp_path: Path) -> None:
    async with proxied(tmp_path, only=("echo", "remote", "bad*", "fail")) as stage:
        await stage.client.handshake()
        assert await stage.client.tools() == ["echo", "fail"]
        result = await stage.client.call("remote")
        assert "cannot be used" in text_of(result)
        assert stage.said("call") == []


@ERAS
async def test_a_changed_definition_is_stripped_and_refused_until_it_is_pinned(tmp_path: Path, era: str) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.greet(era)
        assert "echo" in await stage.client.tools()
        await stage.client.call("change")
        result = await stage.client.call("echo", text="x")
        assert result["_meta"][rpc.REFUSAL_KEY] == "tool_changed"
        assert "echo" not in await stage.client.tools()
        assert [tool for tool, _ in stage.door.asked] == ["change"]
        assert stage.door.unsafe == ["echo"]
        pins = Pins(tmp_path / "state")
        changed = pins.ls()["stub"]["echo"]
        assert changed.pin is not None
        assert changed.changed is not None
        assert changed.changed.told["description"] == "Say it again, and send a copy to me."
        assert pins.accept("stub", ["echo"], "anna") == ["echo"]
        assert "echo" in await stage.client.tools()
        assert text_of(await stage.client.call("echo", text="x")) == "x"
    # Another start: what is pinned now is the changed one, so the first definition is a change.
    async with proxied(tmp_path) as stage:
        await stage.client.greet(era)
        assert "echo" not in await stage.client.tools()


async def test_a_tool_told_twice_in_different_words_is_not_offered(tmp_path: Path) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        await stage.client.call("shadow")
        assert "echo" not in await stage.client.tools()
        assert (await stage.client.call("echo", text="x"))["_meta"][rpc.REFUSAL_KEY] == "tool_changed"


async def test_strict_pins_offer_nothing_that_nobody_has_looked_at(tmp_path: Path) -> None:
    async with proxied(tmp_path, strict=True) as stage:
        await stage.client.handshake()
        assert await stage.client.tools() == []
        Pins(tmp_path / "state").accept("stub", ["echo"], "anna")
        assert await stage.client.tools() == ["echo"]


async def test_pins_that_cannot_be_read_close_everything(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "tool-pins.json").write_text("{")
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        assert "cannot be read" in (await stage.client.ask("tools/list"))["error"]["message"]
        assert (await stage.client.call("echo", text="x"))["isError"] is True
        assert stage.door.asked == []


@ERAS
async def test_a_hung_call_is_cut_and_the_server_told(tmp_path: Path, era: str) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.greet(era)
        result = await stage.cut("hang")
        assert result["_meta"][rpc.REFUSAL_KEY] == "tool_timeout"
        assert stage.door.settled == [("hang", False, "cut")]
        await until(lambda: stage.said("told notifications/cancelled"), "the server is told")
        assert text_of(await stage.client.call("echo", text="x")) == "x"
        assert len(stage.said("started")) == 1


@ERAS
async def test_a_frozen_server_is_started_again(tmp_path: Path, era: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "PING_S", 0.5)
    async with proxied(tmp_path) as stage:
        await stage.client.greet(era)
        result = await stage.cut("freeze")
        assert result["_meta"][rpc.REFUSAL_KEY] == "tool_timeout"
        await until(lambda: len(stage.said("started")) == 2, "it is started again")
        assert text_of(await stage.client.call("echo", text="x")) == "x"
        assert len(stage.said("initialize")) == (2 if era == rpc.LEGACY else 0)


async def test_garbage_huge_lines_and_second_answers_are_dropped(tmp_path: Path) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        assert text_of(await stage.client.call("garbage")) == "first"
        assert text_of(await stage.client.call("huge")) == "after"
        assert text_of(await stage.client.call("echo", text="x")) == "x"
        assert stage.proxy.upstream.dropped == 9
        assert stage.client.told == []


async def test_a_flood_of_notifications_passes_and_ends(tmp_path: Path) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        assert text_of(await stage.client.call("flood")) == "done"
        assert len(stage.client.told) == 20_000


async def test_a_server_that_dies_is_answered_for(tmp_path: Path) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        hanging = await stage.client.begin("tools/call", {"name": "hang", "arguments": {}})
        await until(lambda: stage.said("call hang"), "it hangs")
        assert (await stage.client.call("crash"))["_meta"][rpc.REFUSAL_KEY] == "tool_lost"
        assert (await stage.client.answer(hanging))["result"]["isError"] is True
        await until(lambda: stage.ended, "the proxy ends with it")
        assert stage.ended == ["server"]
        assert {ok for _, ok, _ in stage.door.settled} == {False}


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    async with proxied(tmp_path, command=("no-such-program",)) as stage:
        await until(lambda: stage.ended, "the proxy ends")
        assert stage.ended == ["server"]


@ERAS
async def test_servers_may_not_use_the_model_or_the_user(tmp_path: Path, era: str) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.greet(era)
        if era == rpc.LEGACY:
            assert stage.said("initialize") == ['initialize {"roots": {}}']
        assert "not allowed" in text_of(await stage.client.call("sample"))
        result = await stage.client.call("need")
        assert result["_meta"][rpc.REFUSAL_KEY] == "input_denied"
        assert stage.client.told == []


async def test_sampling_can_be_allowed(tmp_path: Path) -> None:
    async with proxied(tmp_path, allow=("sampling/createMessage",)) as stage:
        await stage.client.handshake(sampling={})
        call = await stage.client.begin("tools/call", {"name": "sample", "arguments": {}})
        frame = await stage.client.next()
        assert frame["method"] == "sampling/createMessage"
        await stage.client.send({"id": "s1", "result": {"role": "assistant"}})
        assert text_of((await stage.client.answer(call))["result"]) == "allowed"
        assert (await stage.client.call("need"))["resultType"] == "input_required"


async def test_the_trace_of_the_client_reaches_the_server(tmp_path: Path) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        params = {"name": "echo", "arguments": {"text": "x"}, "_meta": {"traceparent": trace, "progressToken": 7}}
        await stage.client.ask("tools/call", params)
        assert json.loads(stage.said("meta")[0].removeprefix("meta ")) == {"progressToken": 7, "traceparent": trace}


async def test_a_client_that_gives_up_ends_the_call_everywhere(tmp_path: Path) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        call = await stage.client.begin("tools/call", {"name": "hang", "arguments": {}})
        await until(lambda: stage.said("call hang"), "it hangs")
        await stage.client.send({"method": "notifications/cancelled", "params": {"requestId": call}})
        await until(lambda: stage.said("told notifications/cancelled"), "the server is told")
        await until(lambda: stage.door.settled, "the gate is told")
        assert [ok for _, ok, _ in stage.door.settled] == [False]


async def test_a_client_that_gives_up_before_the_grant(tmp_path: Path) -> None:
    door = MemoryDoor()
    async with proxied(tmp_path, door=door) as stage:
        await stage.client.handshake()
        await stage.client.tools()
        door.hold = anyio.Event()
        call = await stage.client.begin("tools/call", {"name": "echo", "arguments": {"text": "x"}})
        await until(lambda: door.asked, "the gate is asked")
        await stage.client.send({"method": "notifications/cancelled", "params": {"requestId": call}})
        door.hold = None
        assert text_of(await stage.client.call("echo", text="y")) == "y"
        assert stage.said("call")[0].startswith('call echo {"text": "y"}')
        assert len(stage.said("call")) == 1


SMUGGLED = [
    b'[{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"}}}]',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/callMany","params":{}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tasks/result","params":{"taskId":"1"}}',
    b'{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"}}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":[1]}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":[1]}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":7}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
]


@pytest.mark.parametrize("line", SMUGGLED)
async def test_no_other_way_to_a_call(tmp_path: Path, line: bytes) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        await stage.client.send(line)
        given = await stage.client.next()
        assert "error" in given or given["result"]["isError"]
        assert stage.door.asked == []
        assert [each for each in stage.said() if each.startswith(("call", "request"))] == []


async def test_a_call_without_an_id_is_none(tmp_path: Path) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        for method in ("tools/call", "resources/read", "TOOLS/CALL"):
            await stage.client.send({"method": method, "params": {"name": "echo", "arguments": {"text": "x"}}})
        await stage.client.send({"method": "notifications/roots/list_changed"})
        assert "error" in await stage.client.ask(" Tools/call", {"name": "echo", "arguments": {"text": "x"}})
        await until(lambda: stage.said("told notifications/roots"), "true notifications pass")
        assert len(stage.said("told")) == 2, "the handshake's and this one"
        assert stage.said("call") + stage.said("request") == []


async def test_repeated_and_oddly_spelled_keys_do_not_pass(tmp_path: Path) -> None:
    door = MemoryDoor()
    door.refuse["echo"] = Refusal("denied", "no")
    async with proxied(tmp_path, door=door) as stage:
        await stage.client.handshake()
        await stage.client.send(
            b'{"jsonrpc":"2.0","id":7,"method":"tools/call","method":"ping","METHOD":"tools/call",'
            b'"params":{"name":"echo","arguments":{"text":"x"}}}'
        )
        assert (await stage.client.answer(7))["result"] == {}
        await stage.client.send(
            b'{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"change","name":"echo",'
            b'"arguments":{"text":"x"},"Name":"change"}}'
        )
        assert (await stage.client.answer(8))["result"]["_meta"][rpc.REFUSAL_KEY] == "denied"
        assert stage.said("call") == []


async def test_requests_of_one_id_do_not_mix(tmp_path: Path) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        await stage.client.send({"id": 7, "method": "tools/call", "params": {"name": "hang", "arguments": {}}})
        await until(lambda: stage.said("call hang"), "it hangs")
        await stage.client.send({"id": 7, "method": "ping"})
        assert "id is open" in (await stage.client.answer(7))["error"]["message"]
        await stage.client.send({"method": "notifications/cancelled", "params": {"requestId": 7}})
        await until(lambda: stage.said("told notifications/cancelled"), "the first one is over")


async def test_the_server_does_not_see_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWKEEPER_PASSWORD", "secret")
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        assert text_of(await stage.client.call("env")) == "[]"


async def test_tasks_are_not_offered(tmp_path: Path) -> None:
    async with proxied(tmp_path) as stage:
        result = await stage.client.handshake(tasks={})
        assert result["capabilities"] == {"tools": {"listChanged": True}}
        assert stage.said("initialize") == ["initialize {}"]


async def test_the_server_ends_with_the_client(tmp_path: Path) -> None:
    async with proxied(tmp_path) as stage:
        await stage.client.handshake()
        stage.client.close()
        await until(lambda: stage.ended, "the proxy ends")
        assert stage.ended == ["client"]
        assert stage.said("end of input") == ["end of input"]


@ERAS
async def test_the_next_result_of_a_call_has_what_the_model_is_to_read(tmp_path: Path, era: str) -> None:
    door = MemoryDoor()
    async with proxied(tmp_path, door=door) as stage:
        await stage.client.greet(era)
        door.nudges = ["[supervisor] do it otherwise"]
        await stage.client.tools()
        first, second = [await stage.client.call("echo", text="hello") for _ in range(2)]
        assert [part["text"] for part in first["content"]] == ["hello", "[supervisor] do it otherwise"]
        assert text_of(second) == "hello"
        assert stage.door.settled[0][2]["content"] == [{"type": "text", "text": "hello"}]
        door.nudges = ["[supervisor] again"]
        door.refuse["echo"] = Refusal("denied", "not so")
        refused = await stage.client.call("echo", text="x")
        assert [part["text"] for part in refused["content"]][1:] == ["[supervisor] again"]
