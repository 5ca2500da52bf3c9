"""A run that cannot be owned is tried again, more and more rarely, and said to be so once."""

import pytest

from crewkeeper_supervisor.shell import trouble
from crewkeeper_supervisor.shell.trouble import RETRY_ENDED_MAX_S, RETRY_MAX_S, Trouble


class Said:
    """What was logged."""

    def __init__(self):
        self.words = []

    def exception(self, event, **facts):
        self.words.append(event)

    error = exception


@pytest.fixture
def said(monkeypatch):
    heard = Said()
    monkeypatch.setattr(trouble, "logger", lambda: heard)
    return heard.words


def fail(one, text="message 2 of stream LEDGER holds no records", *, ended=True):
    one.failed(ValueError(text), 7)
    return one.pause_s(ended=ended)


def test_of_a_run_that_is_over_it_is_said_once_and_tried_ever_more_rarely(said):
    one = Trouble("r1")
    pauses = [fail(one) for _ in range(40)]
    assert said == ["run.failed", "run.unfinished"]
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == RETRY_ENDED_MAX_S
    assert sum(pauses) > 24 * RETRY_ENDED_MAX_S, "forty attempts are more than a day's"


def test_a_run_that_goes_on_is_not_left_alone_for_long(said):
    one = Trouble("r1")
    assert max(fail(one, ended=False) for _ in range(40)) == RETRY_MAX_S
    assert said == ["run.failed"]
    assert fail(one) == 2 * RETRY_MAX_S, "its host has ended it meanwhile"
    assert said == ["run.failed", "run.unfinished"]


def test_another_failure_is_news_and_so_is_one_after_it_was_owned(said):
    one = Trouble("r1")
    fail(one, "this", ended=False)
    fail(one, "that", ended=False)
    assert said == ["run.failed"] * 2
    one.over()
    assert fail(one, "that", ended=False) == 1
    assert said == ["run.failed"] * 3
