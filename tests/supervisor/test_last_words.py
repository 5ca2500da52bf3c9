"""What an agent said last, which is shown where a run failed: its error, however its log is written."""

import json

import pytest

from crewkeeper_supervisor.cli.agent_log import WORDS_MAX_CHARS, last_words

LEFT = json.dumps({"event": "agent.left", "level": "info"})
FAILED = json.dumps(
    {"event": "agent.failed", "level": "error", "exception": "Traceback\n  File x\nValueError: no tea\n"}
)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (f"begins\n{FAILED}\n{LEFT}\n", "ValueError: no tea"),
        ("Traceback\n  File x\nModuleNotFoundError: no\n\n", "ModuleNotFoundError: no"),
        (f"{LEFT}\n", ""),
        ("", ""),
        ("[" * 50_000, "[" * 50_000),
        ('{"level": "error", "error": "no run"}', "no run"),
        ("\x1b[2J\u202ehidden", "hidden"),
    ],
)
def test_the_newest_error_of_a_log_is_shown(tmp_path, log, words):
    path = tmp_path / "a.log"
    path.write_text(log)
    said = last_words(path)
    assert said.isprintable()
    assert len(said) <= WORDS_MAX_CHARS + 1
    assert words[:100] in said


def test_no_log_has_no_words(tmp_path):
    assert last_words(tmp_path / "none.log") == ""
