import json

import pytest

from crewkeeper_agents import script
from crewkeeper_bus.errors import ConfigError


def parse(data):
    return script.parse(json.dumps(data).encode())


EXAMPLES = {
    "sleep": 0.5,
    "work": 0.5,
    "ask": {"to": "bob", "verb": "approve", "body": [1], "timeout": 3},
    "ask_all": [{"to": "bob"}, {"to": "carol", "body": 1}],
    "ask_any": {"of": [{"to": "bob"}, {"to": "carol"}], "timeout": 2},
    "gather": {"k": 2, "of": [{"to": "bob"}, {"to": "carol"}, {"to": "dave"}]},
    "tell": {"to": "bob", "body": "hello"},
    "receive": {"from": ["bob", "carol"]},
    "lock": {"name": "report", "do": [{"work": 0.1}]},
    "semaphore": {"name": "gpu", "capacity": 4, "units": 2, "do": [{"work": 0.1}]},
    "ask_human": {"text": "Really?", "who": "ops"},
    "tool": {"name": "pay", "args": {"usd": 1}, "call_id": "order-7", "timeout": 5},
    "call": {"to": "bob", "as": "c1"},
    "await": ["c1"],
    "task": {"name": "aside", "do": [{"work": 0.1}]},
    "log": "a line",
    "progress": "half",
    "usage": {"model": "m", "input_tokens": 1, "output_tokens": 2, "cost_microusd": 3},
    "checkpoint": True,
    "repeat": {"times": 3, "do": [{"log": "again"}]},
    "reply": {"ok": True},
    "fail": "broken",
    "exit": 7,
    "catch": {"do": [{"sleep": 1}], "error": "would_deadlock", "then": [{"log": "caught"}]},
    "flood": {"to": "bob", "count": 100},
    "publish_raw": {"subject": "crew.r.msg.eve.bob.1", "bytes_base64": "e30="},
    "barrier": {"file": "/tmp/go"},
}


def test_every_kind_of_step_has_an_example_here():
    assert EXAMPLES.keys() == script.FORMS.keys()


def test_a_handler_may_use_every_kind_of_step():
    steps = [{kind: value} for kind, value in EXAMPLES.items()]
    parsed = parse({"handlers": {"ask": steps}}).handlers["ask"]
    assert [type(step) for step in parsed] == [form.type for form in script.FORMS.values()]
    assert parsed[2] == script.Ask(to="bob", verb="approve", body=[1], timeout_s=3)
    assert parsed[-2].payload == b"{}"
    assert parsed[8].do == (script.Work(for_s=0.1),)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"slep": 1}, "main[0]: unknown step 'slep'; did you mean 'sleep'?"),
        ({"sleep": -1}, "main[0].sleep: Expected `float` >= 0"),
        ({"sleep": "1"}, "main[0].sleep: Expected `float`, got `str`"),
        ({"sleep": 1, "work": 1}, "main[0]: a step is an object with exactly one key"),
        (3, "main[0]: a step is an object with exactly one key"),
        ({"ask": {"too": "bob"}}, "main[0].ask: Object contains unknown field `too`"),
        ({"ask": {"to": "bob.carol"}}, "main[0].ask: "),
        ({"ask_all": []}, "main[0].ask_all: Expected `array` of length >= 1"),
        ({"checkpoint": False}, "main[0].checkpoint: "),
        ({"reply": 1}, "main[0].reply: only a handler has a call to answer"),
        ({"await": ["c9"]}, "main: await 'c9': no earlier call is named so"),
        ({"repeat": {"times": 2, "do": [{"task": {"do": [{"jump": 1}]}}]}}, "main[0].repeat.do[0].task.do[0]: unknown"),
        ({"publish_raw": {"subject": "a", "bytes_base64": "?"}}, "main[0].publish_raw: Invalid base64"),
    ],
)
def test_a_wrong_step_is_an_error_that_names_its_place(step, words):
    with pytest.raises(ConfigError) as caught:
        parse({"main": [step]})
    assert words in str(caught.value)


def test_all_errors_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        parse({"main": [{"a": 1}, {"log": "fine"}, {"b": 1}], "handler": {}, "on_error": "maybe"})
    assert str(caught.value).startswith("script has 4 errors:")


@pytest.mark.parametrize(
    "text", [b"", b"[", b"[]", b"{}", b"\xff", b"[" * 1000, b'{"main": 1}', b" " * (1 << 20) + b"{}"]
)
def test_what_is_no_script_is_a_config_error(text):
    with pytest.raises(ConfigError):
        script.parse(text)


def test_a_script_has_a_largest_number_of_steps():
    steps = [{"log": ""}] * script.STEPS_MAX
    assert len(parse({"main": steps}).main) == script.STEPS_MAX
    with pytest.raises(ConfigError, match=f"more than {script.STEPS_MAX} steps"):
        parse({"main": [*steps, {"log": ""}]})


def test_an_argument_is_text_or_a_file(tmp_path):
    path = tmp_path / "script.json"
    path.write_text('{"main": [{"log": "from the file"}]}')
    assert script.read_argument(f"@{path}").main == (script.Log(text="from the file"),)
    assert script.read_argument('{"main": [{"log": "text"}]}').main == (script.Log(text="text"),)
    with pytest.raises(ConfigError, match=r"missing\.json: No such file"):
        script.read_argument(f"@{tmp_path / 'missing.json'}")
