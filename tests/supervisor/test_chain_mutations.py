"""Every mutation of a single record of a chain is found, named by its kind and placed: with the key, and without."""

import msgspec
import pytest

from crewkeeper_supervisor.shell import audit_keys, chain
from crewkeeper_supervisor.shell.chain import FIRST, Record, check, digest, digest_of

COUNT = 8


@pytest.fixture
def key(tmp_path):
    return audit_keys.make(tmp_path)


def link(records, key=None):
    """Number the records, and bind each to the one before."""
    made, head = [], FIRST
    for n, record in enumerate(records, start=1):
        bound = msgspec.structs.replace(record, n=n, prev=head, digest=digest_of(record.command), v=2)
        bound = rehashed(bound, key)
        made.append(bound)
        head = bound.hash
    return made


def rehashed(record, key=None):
    hash_ = digest(record)
    return msgspec.structs.replace(record, hash=hash_, mac=key.code(hash_) if key else record.mac)


def record(number, **changes):
    fields = {"run": "r1", "n": 1, "id": f"{number}-0", "kind": "TellAgent", "term": 1, "prev": FIRST}
    return Record(**(fields | {"command": {"id": f"{number}-0", "why": f"reason {number}", "cost": 0.5}} | changes))


@pytest.fixture
def good(key):
    return link([record(number) for number in range(1, COUNT + 1)], key)


def first(records, key=None):
    problems = check(records, check_mac=key.is_right if key else None)
    return (problems[0].kind, problems[0].n) if problems else None


def test_a_true_chain_has_no_problems(good, key):
    assert check(good) == check(good, check_mac=key.is_right) == []


FIELDS = {
    "run": "r2",
    "n": 99,
    "id": "99-9",
    "kind": "Escalate",
    "finding": "F1-0",
    "cause_seq": 7,
    "term": 2,
    "command": {"id": "1-0", "why": "another"},
    "digest": "ab" * 32,
    "prev": "cd" * 32,
    "hash": "ef" * 32,
    "v": 1,
}


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize("at", range(COUNT))
def test_an_edited_record_is_named_whatever_of_it_was_edited(good, key, at, with_key):
    assert {*FIELDS, "mac"} == set(Record.__struct_fields__)
    for name, value in FIELDS.items():
        records = [*good]
        records[at] = msgspec.structs.replace(good[at], **{name: value})
        assert first(records, key if with_key else None) == ("edited", at + 1), name


@pytest.mark.parametrize("at", range(COUNT))
def test_with_the_key_a_wrong_code_is_an_edit(good, key, at):
    records = [*good]
    records[at] = msgspec.structs.replace(good[at], mac="00" * 32)
    assert first(records, key) == ("edited", at + 1)


@pytest.mark.parametrize("at", range(COUNT))
def test_an_edit_with_a_new_hash_is_named(good, key, at):
    changed = msgspec.structs.replace(good[at], command={"id": "x"}, digest=digest_of({"id": "x"}))
    records = [*good]
    records[at] = rehashed(changed)
    assert first(records, key) == ("edited", at + 1)
    # Without the key the record after it tells, so the last one of all needs a head.
    assert first(records) == (("edited", at + 1) if at + 1 < COUNT else None)


@pytest.mark.parametrize("at", range(COUNT - 1))
def test_a_chain_written_anew_from_some_record_on_is_named_with_the_key(good, key, at):
    changed = [*good[:at], record(77), *good[at + 1 :]]
    anew = link(changed)
    records = [*good[:at], *anew[at:]]
    assert first(records) is None
    assert first(records, key) == ("edited", at + 1)


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize("at", range(COUNT - 1))
def test_a_deleted_record_is_named(good, key, at, with_key):
    assert first(good[:at] + good[at + 1 :], key if with_key else None) == ("deleted", at + 1)


@pytest.mark.parametrize("with_key", [True, False])
def test_two_swapped_records_are_named(good, key, with_key):
    for at in range(COUNT):
        for other in range(at + 1, COUNT):
            records = [*good]
            records[at], records[other] = good[other], good[at]
            problems = check(records, check_mac=key.is_right if with_key else None)
            assert (problems[0].kind, problems[0].n) == ("swapped", at + 1)
            assert len(problems) == 1, problems


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize("at", range(COUNT + 1))
def test_an_inserted_record_is_named(good, key, at, with_key):
    check_with = key if with_key else None
    copy = good[3]
    stranger = msgspec.structs.replace(record(55), n=at + 1, hash="12" * 32, v=2)
    for put_in in (copy, stranger):
        records = [*good[:at], put_in, *good[at:]]
        found = first(records, check_with)
        # A copy ahead of its place is told from a swap only by what is left over.
        allowed = ("inserted", "swapped") if put_in is copy and at < 3 else ("inserted",)
        if put_in is stranger and at == COUNT:
            allowed = ("edited", "inserted")  # nothing follows that would tell one from the other
        assert found is not None
        assert found[0] in allowed
        assert abs(found[1] - (at + 1)) <= (1 if put_in is copy else 0), found


@pytest.mark.parametrize("at", range(1, COUNT))
def test_a_record_put_in_with_a_right_hash_is_named(good, key, at):
    forged = rehashed(msgspec.structs.replace(record(55), n=at + 1, prev=good[at - 1].hash, v=2, digest=digest_of({})))
    forged = rehashed(msgspec.structs.replace(forged, digest=digest_of(forged.command)))
    records = [*good[:at], forged, *good[at:]]
    assert first(records) == first(records, key) == ("inserted", at + 1)


def test_several_problems_are_told_each_by_itself(good, key):
    records = [msgspec.structs.replace(good[0], id="0-0"), good[1], *good[3:6], good[7], good[6]]
    found = [(problem.kind, problem.n) for problem in check(records, check_mac=key.is_right)]
    assert found == [("edited", 1), ("deleted", 3), ("swapped", 7)]


def test_a_redacted_record_is_bound_by_the_digest_of_what_it_was(good, key):
    records = [*good]
    records[4] = msgspec.structs.replace(good[4], command={"why": "[redacted:card]"})
    assert check(records, redacted=[5], check_mac=key.is_right) == []
    assert first(records, key) == ("edited", 5)
    records[4] = msgspec.structs.replace(records[4], digest="ab" * 32)
    assert [problem.kind for problem in check(records, redacted=[5])] == ["edited"]


def test_records_of_the_first_format_are_checked_by_their_one_hash():
    plain = {"id": "1-0", "why": "wörter", "n": [1, 2.5, None]}
    old = Record(run="r1", n=1, id="1-0", kind="TellAgent", cause_seq=1, term=1, command=plain, prev=FIRST)
    old = msgspec.structs.replace(old, hash=digest(old))
    assert old.hash == "4b86f42e6d6a44d16261626927706060b67771276bbe09e994569e97246ca718"
    assert check([old]) == []
    assert first([msgspec.structs.replace(old, command={})]) == ("edited", 1)


def test_after_authenticated_records_none_without_a_key_is_taken(good, key):
    old = msgspec.structs.replace(record(9), n=COUNT + 1, prev=good[-1].hash, v=1)
    old = msgspec.structs.replace(old, hash=digest(old))
    assert first([*good, old], key) == ("edited", COUNT + 1)
    upgraded = msgspec.structs.replace(record(1), v=1)
    upgraded = msgspec.structs.replace(upgraded, hash=digest(upgraded))
    new = rehashed(
        msgspec.structs.replace(record(2), n=2, prev=upgraded.hash, digest=digest_of(record(2).command), v=2)
    )
    assert check([upgraded, new]) == []


def test_keys_are_made_once_and_told_apart(tmp_path):
    one, same = audit_keys.make(tmp_path), audit_keys.make(tmp_path)
    other = audit_keys.make(tmp_path / "other")
    hash_ = "ab" * 32
    assert (one.public, one.code(hash_)) == (same.public, same.code(hash_))
    assert other.public != one.public
    assert other.code(hash_) != one.code(hash_)
    assert oct((tmp_path / "keys" / audit_keys.AUDIT_FILE).stat().st_mode)[-3:] == "600"
    assert one.public.startswith("N")
    assert one.code(hash_) not in repr(one)


def test_the_canonical_form_is_what_the_page_says():
    assert chain.canonical({"b": [1, 2.5, True, None], "a": "ü\n"}) == '{"a":"ü\\n","b":[1,2.5,true,null]}'.encode()
