"""`twinlens keys` as it is typed."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from twinlens.api.access.keyring import Keyring
from twinlens.cli.main import main


def run(data_dir: Path, *words: object, **env: str) -> Result:
    command = ["keys", *map(str, words), "--data-dir", str(data_dir)]
    return CliRunner().invoke(main, command, env=env)


def create(data_dir: Path, *options: object) -> dict[str, Any]:
    done = run(data_dir, "create", *options, "--json")
    assert done.exit_code == 0, done.output
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def listed(data_dir: Path) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(run(data_dir, "list", "--json").stdout)["items"]
    return items


def test_a_key_is_made_and_alone_on_standard_output(tmp_path: Path) -> None:
    done = run(tmp_path / "new", "create", "--name", "Ada")
    [key] = done.stdout.splitlines()
    first, about = done.stderr.splitlines()
    assert "every request needs one" in first
    assert "shown this once" in about
    record = Keyring(tmp_path / "new" / "keys").find(key)
    assert record is not None
    assert (record.name, record.scope, record.libraries) == ("Ada", "read", None)
    assert "every request" not in run(tmp_path / "new", "create").stderr
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_the_data_directory_may_be_a_setting(tmp_path: Path) -> None:
    env = {"TWINLENS_DATA_DIR": str(tmp_path)}
    done = CliRunner().invoke(main, ["keys", "create"], env=env)
    assert Keyring(tmp_path / "keys").find(done.stdout.strip()) is not None


def test_the_key_is_shown_once_and_never_again(tmp_path: Path) -> None:
    made = create(tmp_path, "--scope", "write")
    secret = made.pop("key").rpartition("_")[2]
    assert listed(tmp_path) == [made]
    assert set(made) == {
        *("id", "name", "scope", "libraries", "requests_per_minute"),
        *("created_at", "expires_at", "revoked_at", "state"),
    }
    for words in (("list",), ("revoke", made["id"])):
        assert secret not in run(tmp_path, *words).output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"scope": "read", "libraries": None, "requests_per_minute": None}),
        (("--scope", "admin", "--scope", "read"), {"scope": "admin"}),
        (
            ("--library", "art", "--library", "not-there-yet"),
            {"libraries": ["art", "not-there-yet"]},
        ),
        (("--requests-per-minute", 7), {"requests_per_minute": 7}),
        (("--requests-per-minute", 0), {"requests_per_minute": 0}),
        (("--expires", "2999-12-31"), {"expires_at": "2999-12-31T00:00:00.000Z"}),
        (("--name", "a\x1b[31m\nb"), {"name": "a[31mb"}),
    ],
)
def test_what_it_allows_is_what_is_said(
    tmp_path: Path, options: tuple[object, ...], expected: dict[str, Any]
) -> None:
    assert create(tmp_path, *options).items() >= expected.items()


def test_days_are_counted_from_now(tmp_path: Path) -> None:
    ends = datetime.fromisoformat(create(tmp_path, "--expires", 30)["expires_at"])
    assert abs(ends - datetime.now(UTC) - timedelta(days=30)) < timedelta(hours=1)


@pytest.mark.parametrize(
    "options",
    [
        ("--expires", "0"),
        ("--expires", "-1"),
        ("--expires", "2001-01-01"),
        ("--expires", "soon"),
        ("--expires", "9" * 20),
        ("--expires", "9999999"),
        ("--scope", "all"),
        ("--library", "Art"),
        ("--library", "../art"),
        ("--requests-per-minute", "-1"),
    ],
)
def test_what_is_not_right_is_refused_and_no_key_made(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = run(tmp_path, "create", *options)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert list(tmp_path.iterdir()) == []


def test_if_there_is_none_one_is_made_and_then_no_other(tmp_path: Path) -> None:
    assert create(tmp_path, "--if-none")["key"]
    assert create(tmp_path, "--if-none") == {"key": None}
    done = run(tmp_path, "create", "--if-none")
    assert (done.exit_code, done.stdout) == (0, "")
    run(tmp_path, "revoke", listed(tmp_path)[0]["id"])
    assert create(tmp_path, "--if-none") == {"key": None}, "a revoked one is one"
    assert len(listed(tmp_path)) == 1


def test_a_revoked_key_stays_in_the_list(tmp_path: Path) -> None:
    one, other = (create(tmp_path)["id"] for _ in range(2))
    done = run(tmp_path, "revoke", one)
    assert (done.exit_code, done.stdout) == (0, f"revoked key {one}\n")
    states = {record["id"]: record["state"] for record in listed(tmp_path)}
    assert states == {one: "revoked", other: "valid"}
    assert run(tmp_path, "revoke", one).exit_code == 0


def test_what_is_no_id_is_not_repeated(tmp_path: Path) -> None:
    """It may be a key."""
    key = create(tmp_path)["key"]
    done = run(tmp_path, "revoke", key)
    assert done.exit_code == 1
    assert "twinlens keys list" in done.stderr
    assert key not in done.output
    assert [record["state"] for record in listed(tmp_path)] == ["valid"]


def test_where_there_is_no_key_none_is_listed(tmp_path: Path) -> None:
    assert listed(tmp_path / "nowhere") == []
    assert run(tmp_path, "list").stdout.startswith("id\tname\tscope\t")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_data_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for words in (("create",), ("list",), ("revoke", "0" * 16)):
        done = run(tmp_path / "file", *words)
        assert done.exit_code == 2
        assert f"cannot use {tmp_path}/file/keys for keys: Not a directory" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another's")
def test_root_makes_no_key_that_the_services_user_could_not_read(tmp_path: Path) -> None:
    made = create(tmp_path)
    os.chown(tmp_path, 12345, -1)
    for words in (("create",), ("revoke", made["id"])):
        done = run(tmp_path, *words)
        assert done.exit_code == 2
        assert "belongs to user 12345" in done.stderr
    assert [record["state"] for record in listed(tmp_path)] == ["valid"]
