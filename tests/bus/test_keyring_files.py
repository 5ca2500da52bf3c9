"""Keys: made once, kept private, never overwritten, never shown."""

import json
import stat
import threading
from pathlib import Path

import pytest

from crewkeeper_bus.claims import Key, unverified
from crewkeeper_bus.errors import ServerError
from crewkeeper_bus.keys import keyring, load_keyring, write_once


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    assert load_keyring(tmp_path) is None
    made = keyring(tmp_path / "state")
    path = tmp_path / "state" / "keys" / "embedded.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700, "nor may others look into the state directory"
    assert keyring(tmp_path / "state") == load_keyring(tmp_path / "state") == made
    seeds = list(json.loads(path.read_bytes()).values())
    assert len(set(seeds)) == 8
    assert not any(seed in repr(made) for seed in seeds)
    assert [entry.name for entry in path.parent.iterdir()] == ["embedded.json"]
    assert keyring(tmp_path / "another") != made


def test_two_who_make_them_at_once_get_the_same(tmp_path: Path) -> None:
    got, start = [], threading.Barrier(4)

    def make() -> None:
        start.wait(10)
        got.append(keyring(tmp_path))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(got) == 4
    assert all(each == got[0] for each in got)


def test_a_file_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "x.json"
    ring = keyring(tmp_path)
    assert write_once(path, ring)
    path.write_text("mine")
    assert not write_once(path, ring)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_keys_that_others_can_reach_are_refused(tmp_path: Path, mode: int) -> None:
    keyring(tmp_path)
    (tmp_path / "keys" / "embedded.json").chmod(mode)
    with pytest.raises(ServerError, match=r"others may have read its keys.*chmod 600"):
        keyring(tmp_path)
    (tmp_path / "keys" / "embedded.json").chmod(0o600)
    (tmp_path / "keys").chmod(0o750)
    with pytest.raises(ServerError, match="chmod 700"):
        keyring(tmp_path)


def test_damaged_keys_are_an_error_that_shows_none(tmp_path: Path) -> None:
    ring = keyring(tmp_path)
    path = tmp_path / "keys" / "embedded.json"
    whole = json.loads(path.read_bytes())
    for content in ("", "[]", "x" * 70_000, json.dumps({**whole, "auth": 5})):
        path.write_text(content)
        with pytest.raises(ServerError, match="is damaged: restore it"):
            keyring(tmp_path)
    path.write_text(json.dumps({**whole, "auth": whole["auth"][:-1] + "1"}))
    with pytest.raises(ServerError, match=r"key 'auth' .* is damaged") as caught:
        load_keyring(tmp_path).account("auth")
    assert ring.auth[:12] not in str(caught.value)


def test_the_keyring_gives_each_account_only_what_it_is_for(tmp_path: Path) -> None:
    ring = keyring(tmp_path)
    crews, auth, system = (unverified(ring.account(name))["nats"] for name in ("crews", "auth", "system"))
    assert [each["limits"]["streams"] for each in (crews, auth, system)] == [-1, 0, 0]
    assert "authorization" not in crews | system
    assert auth["authorization"] == {
        "auth_users": [ring.public("callout_user")],
        "allowed_accounts": [ring.public("crews")],
    }
    assert unverified(ring.account("crews", {"a": "b"}))["nats"]["mappings"] == {"a": [{"subject": "b", "weight": 100}]}
    for role, account in (("callout", "auth"), ("system", "system"), ("supervisor", "crews")):
        credentials = ring.user(role, "nats://h:1")
        claims = unverified(credentials.jwt)
        assert (claims["iss"], claims["sub"]) == (ring.public(account), Key(credentials.seed).public)
        assert credentials.user == claims["name"] == f"_{role}"
        assert credentials.seed not in repr(credentials)
        assert credentials.jwt not in repr(credentials)
    nobody = unverified(ring.nobody_jwt())["nats"]
    assert (nobody["bearer_token"], nobody["pub"], nobody["sub"]) == (True, {"deny": [">"]}, {"deny": [">"]})
