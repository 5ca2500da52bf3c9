"""Where secrets are replaced beside the client: what views show, exports, and escalations."""

import contextlib
import io
import json
from types import SimpleNamespace

import msgspec
import pytest

from crewkeeper_bus import detectors
from crewkeeper_bus.redaction import Redactor
from crewkeeper_supervisor.cli import output
from crewkeeper_supervisor.core.commands import Escalate
from crewkeeper_supervisor.core.crew import Agent, Crew, Redact, Webhook
from crewkeeper_supervisor.shell import crewfile
from crewkeeper_supervisor.shell.effects import Effects
from crewkeeper_supervisor.shell.journal import Entry
from crewkeeper_supervisor.views import redaction
from crewkeeper_supervisor.views.fold import Fold
from crewkeeper_supervisor.views.wording import safe
from support.journal import Journal

KEY = "0badcafe" * 4
TOKEN = "gh" + "p_" + "aB3dE6gH9jK2mN5pQ8sTaB3dE6gH9jK2mN5p"
HASHED = f"[redacted:github_token:{Redactor(bytes.fromhex(KEY)).digest(TOKEN)}]"


@pytest.fixture(autouse=True)
def _ended():
    redaction.end()
    yield
    redaction.end()


def crew(**fields):
    return Crew(name="c", agents=(Agent(name="a"),), redact=Redact(key=KEY, **fields))


def folded(which):
    """A view of a run whose crew has only been declared."""
    entry = Entry(1, *Journal(which).entries[0])
    fold = Fold("r1")
    fold.feed(entry)
    assert fold.supervisor.crew is not None
    return fold


def printed(write, value):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        write(value)
    return out.getvalue()


WRITERS = (output.write_json, output.write_json_line, output.write_yaml)


def test_views_and_exports_of_a_run_show_no_secret():
    folded(crew())
    assert safe(f"use {TOKEN}") == f"use {HASHED}"
    assert safe("x" * 290 + " " + TOKEN).endswith("…")
    assert TOKEN[:8] not in safe("x" * 285 + " " + TOKEN)
    for write in WRITERS:
        text = printed(write, {"at": [{"why": f"use {TOKEN}", "n": 1}]})
        assert HASHED in text
        assert TOKEN not in text


def test_without_a_run_nothing_is_replaced_nor_where_the_crew_says_so():
    for _ in range(2):
        assert safe(TOKEN) == TOKEN
        assert json.loads(printed(output.write_json, {"password": TOKEN})) == {"password": TOKEN}
        folded(crew(places=("client",)))


def test_runs_shown_together_share_no_hashes():
    folded(crew())
    folded(msgspec.structs.replace(crew(), redact=Redact(key="00" * 16, kinds=("email",))))
    assert safe(f"{TOKEN} someone@example.org") == "[redacted:github_token] [redacted:email]"


class Box:
    """An outbox that keeps what is put into it."""

    def __init__(self):
        self.entries = []

    async def enqueue(self, entry):
        self.entries.append(entry)


@pytest.mark.parametrize(("places", "gone"), [(("webhooks",), True), (("client", "views"), False)])
async def test_escalations_hold_no_secret(places, gone):
    box = Box()
    link = SimpleNamespace(place=SimpleNamespace(state=None))
    effects = Effects(link, "r1", 1, box, None, lambda command, crew: None, lambda command: None)
    told = {"kind": "crash", "summary": f"a ended: {TOKEN}", "evidence": {"log": ["password=hunter22x"]}}
    which = msgspec.structs.replace(crew(places=places), escalate=(Webhook(webhook="http://127.0.0.1:1/"),))
    await effects.carry_out(Escalate(id="1-1", incident="I1", kind="opened", body=told), which)
    (entry,) = box.entries
    body = bytes(entry.body).decode()
    assert (TOKEN not in body) is gone
    assert ("hunter22x" not in body) is gone
    assert (HASHED in body) is gone


def test_a_detector_that_is_not_here_hides_more_and_stops_nobody():
    folded(crew(kinds=("email", "nowhere_at_all:find")))
    assert safe(f"use {TOKEN}") == f"use {HASHED}"


def test_a_crew_file_that_asks_for_a_detector_hears_what_is_missing(tmp_path, monkeypatch):
    def told(words):
        text = f"crew: c\nagents: {{a: {{run: x, may_call: []}}}}\nredact: {{detectors: [{words}]}}\n"
        (tmp_path / "crew.yaml").write_text(text)
        try:
            return crewfile.load(tmp_path / "crew.yaml").redact.kinds
        except crewfile.CrewFileError as error:
            return [(each.message, each.remedy) for each in error.problems]

    monkeypatch.setattr(detectors.importlib.util, "find_spec", lambda name: None)
    missing = "the detector kingfisher needs the package kingfisher-secret-scanner, which is not installed"
    assert told("kingfisher") == [(missing, "pip install 'crewkeeper[secrets]'")]
    assert "did you mean 'datafog'" in told("datafox")[0][0]
    assert told("'mine.own:find'") == ("secrets", "mine.own:find")
