"""Commands that need no server: the cheat sheet, schemas, and figures of this machine."""

import json

import jsonschema
import pytest

from crewkeeper_supervisor.cli import bench, cheat, failure, main, schema


def test_the_cheat_sheet_by_topic_and_as_data(capsys):
    assert main.run(["cheat"]) == 0
    whole = capsys.readouterr().out
    assert "# begin" in whole
    assert main.run(["cheat", "act"]) == 0
    act = capsys.readouterr().out
    assert act in whole
    assert main.run(["cheat", "look", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["command"] == "supervisor ps"
    assert main.run(["cheat", "nothing"]) == failure.NOT_FOUND


def test_the_cheat_sheet_fits_a_screen(capsys):
    assert main.run(["cheat"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 140
    assert f"TOPIC is {', '.join(list(cheat.SHEET)[:-1])} or {list(cheat.SHEET)[-1]};" in (cheat.cheat.help or "")


@pytest.mark.parametrize("name", schema.SCHEMAS)
def test_every_schema_is_one(name, capsys):
    assert main.run(["schema", name]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["$schema"].endswith("2020-12/schema")
    jsonschema.Draft202012Validator.check_schema(made)


def test_schemas_are_listed(capsys):
    assert main.run(["schema"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(schema.SCHEMAS)
    assert main.run(["schema", "none"]) == failure.USAGE


@pytest.mark.live
def test_figures_are_measured(capsys, monkeypatch):
    monkeypatch.setattr(bench, "ROUND_TRIPS", 5)
    monkeypatch.setattr(bench, "BURST", 50)
    monkeypatch.setattr(bench, "CORE_EVENTS", 100)
    assert main.run(["bench", "--seconds", "0.1", "-o", "json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in measured["figures"]] == ["decide", "journal p50", "journal p99", "journal rate"]
    assert all(each["value"] > 0 for each in measured["figures"])
    assert measured["cpus"] >= 1
