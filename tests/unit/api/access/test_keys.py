"""What a key looks like, and what is kept of it."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from twinlens.api.access.keyring import Keyring
from twinlens.api.access.keys import SCOPES, Grant, KeyRecord, NewKey, Scope, new_key
from twinlens.cli.keys import commands
from twinlens.shared.messages import now

READ = Grant(scope="read")


def id_of(record: KeyRecord | None) -> str | None:
    return None if record is None else record.id


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


@pytest.fixture
def made(keyring: Keyring) -> NewKey:
    made = new_key(READ)
    keyring.add(made.record)
    return made


def test_a_key_is_known_by_its_prefix_and_says_its_id(made: NewKey) -> None:
    assert re.fullmatch(r"twinlens_[0-9a-f]{16}_[0-9a-f]{64}", made.key)
    assert made.key.split("_")[1] == made.record.id


def test_no_two_keys_are_alike() -> None:
    keys = [new_key(READ).key.split("_") for _ in range(50)]
    assert len({key_id for _, key_id, _ in keys}) == len({secret for _, _, secret in keys}) == 50


@pytest.mark.parametrize(
    ("scope", "allows"),
    [("read", {"read"}), ("write", {"read", "write"}), ("admin", {"read", "write", "admin"})],
)
def test_a_scope_includes_those_before_it(scope: Scope, allows: set[str]) -> None:
    assert {one for one in SCOPES if Grant(scope=scope).has(one)} == allows
    assert commands.SCOPES == SCOPES


def test_a_key_is_for_all_libraries_or_for_those_that_it_is_held_to() -> None:
    assert READ.covers("art")
    held = Grant(scope="admin", libraries=["art", "photos"])
    assert [held.covers(name) for name in ("art", "photos", "default", "ar", "")] == [
        *(True, True),
        *(False, False, False),
    ]


@pytest.mark.parametrize("libraries", [["Art"], ["../art"], [""], ["a" * 65]])
def test_it_is_held_to_what_can_be_the_name_of_a_library(libraries: list[str]) -> None:
    with pytest.raises(ValidationError):
        Grant(scope="read", libraries=libraries)


def test_it_ends_when_it_expires_or_is_revoked(keyring: Keyring) -> None:
    later, before = now() + timedelta(days=1), now() - timedelta(seconds=1)
    assert new_key(READ).record.state == "valid"
    assert new_key(READ, expires_at=later).record.state == "valid"
    assert new_key(READ, expires_at=before).record.state == "expired"
    expired = new_key(READ, expires_at=before).record
    keyring.add(expired)
    revoked = keyring.revoke(expired.id)
    assert revoked is not None
    assert revoked.state == "revoked"


# Where the records are.


def test_the_key_itself_is_not_kept_and_nobody_else_reads_what_is(
    keyring: Keyring, made: NewKey, tmp_path: Path
) -> None:
    folder = tmp_path / "keys"
    [file] = folder.iterdir()
    secret = made.key.rpartition("_")[2]
    assert secret not in file.read_text(encoding="utf-8")
    assert [one.stat().st_mode & 0o777 for one in (folder, file)] == [0o700, 0o600]


def test_a_key_is_there_for_others_at_once_and_when_it_is_revoked_no_longer(
    keyring: Keyring, tmp_path: Path
) -> None:
    other = Keyring(tmp_path / "keys")
    assert not other.is_there()
    assert other.all() == []
    made = new_key(READ, "first")
    keyring.add(made.record)
    assert other.is_there()
    assert id_of(other.find(made.key)) == made.record.id
    keyring.revoke(made.record.id)
    revoked = other.find(made.key)
    assert revoked is not None
    assert revoked.state == "revoked"
    assert other.revoke(made.record.id) == revoked, "it stays as it was"
    assert other.all() == [revoked]


def test_keys_are_listed_in_the_order_in_which_they_were_made(keyring: Keyring) -> None:
    records = [new_key(READ, name).record for name in "abcdefgh"]
    for seconds, record in enumerate(records):
        record.created_at += timedelta(seconds=seconds)
    for record in reversed(records):
        keyring.add(record)
    assert [one.name for one in keyring.all()] == list("abcdefgh")


@pytest.mark.parametrize("key_id", ["0" * 16, "../keys", "", "*", "0" * 15])
def test_what_is_no_key_cannot_be_revoked(keyring: Keyring, made: NewKey, key_id: str) -> None:
    assert keyring.revoke(key_id) is None
    record = keyring.find(made.key)
    assert record is not None
    assert record.state == "valid"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"id": "'])
def test_a_broken_record_lets_nobody_in(
    keyring: Keyring, made: NewKey, tmp_path: Path, text: str
) -> None:
    (tmp_path / "keys" / f"{made.record.id}.json").write_text(text)
    assert keyring.find(made.key) is None
    assert keyring.all() == []
    assert keyring.is_there()


def test_what_cannot_be_read_is_not_taken_for_no_keys(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Keyring(tmp_path / "file" / "keys").is_there()


def test_where_records_go_while_somebody_looks_nothing_opens(
    keyring: Keyring, made: NewKey, tmp_path: Path
) -> None:
    assert keyring.is_there()
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    assert keyring.is_there()
    assert keyring.find(made.key) is None


def test_a_record_that_cannot_be_written_leaves_nothing(
    keyring: Keyring, made: NewKey, tmp_path: Path
) -> None:
    other = new_key(READ).record
    (tmp_path / "keys" / f"{other.id}.json").mkdir()
    before = set((tmp_path / "keys").iterdir())
    with pytest.raises(OSError, match="directory"):
        keyring.add(other)
    assert set((tmp_path / "keys").iterdir()) == before
