"""`twinlens keys`: what is done with the records of keys, and what is shown of them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from twinlens.api.access.keyring import Keyring
from twinlens.cli.errors import CommandFailed, CommandRefused
from twinlens.cli.output import say, show
from twinlens.cli.settings import owner_unlike_root
from twinlens.cli.show.tables import Column, named, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from twinlens.api.access.keys import KeyRecord, NewKey
    from twinlens.shared.settings import Settings


def create_key(settings: Settings, made: NewKey, *, if_none: bool) -> None:
    """Keeps the record of a key, and shows the key.

    Args:
        settings: Where the service keeps its data.
        made: The key.
        if_none: Whether to leave it where there is, or was, any.
    """
    keyring = Keyring(settings.keys_dir)
    with _usable(settings.keys_dir):
        is_first = not keyring.is_there()
        if if_none and not is_first:
            say("there are keys already: none was made", is_error=True)
            show({"key": None}, lambda: None)
            return
        _check_user(settings.data_dir)
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        keyring.add(made.record)
    if is_first:
        say("this is the first key: from now on every request needs one", is_error=True)
    told = f"key {made.record.id} is shown this once; programs take it from TWINLENS_KEY:"
    say(told, is_error=True)
    show({"key": made.key, **_shown(made.record)}, lambda: click.echo(made.key))


def list_keys(settings: Settings) -> None:
    """Lists all keys, with those that have ended."""
    with _usable(settings.keys_dir):
        records = Keyring(settings.keys_dir).all()
    columns = (
        "id",
        named("name"),
        Column("scope", leave_out=1),
        Column("libraries", 12, leave_out=2),
        Column("requests/min", leave_out=5),
        Column("created", leave_out=4),
        Column("ends", leave_out=3),
        "state",
    )
    items = [_shown(record) for record in records]
    show({"items": items}, lambda: print_table(columns, [_row(record) for record in records]))


def revoke_key(settings: Settings, key_id: str) -> None:
    """Ends a key.

    Raises:
        CommandFailed: There is none of this id.
    """
    with _usable(settings.keys_dir):
        _check_user(settings.data_dir)
        record = Keyring(settings.keys_dir).revoke(key_id)
    if record is None:
        # What was given may be a key: it is not repeated.
        raise CommandFailed("there is no key of this id; see `twinlens keys list`")
    show(_shown(record), lambda: say(f"revoked key {record.id}"))


def _shown(record: KeyRecord) -> dict[str, Any]:
    return {**record.model_dump(mode="json", exclude={"sha256"}), "state": record.state}


def _row(record: KeyRecord) -> tuple[str, ...]:
    per_minute = record.requests_per_minute
    return (
        record.id,
        record.name,
        record.scope,
        "all" if record.libraries is None else ", ".join(record.libraries),
        "" if per_minute is None else str(per_minute),
        f"{record.created_at:%Y-%m-%d}",
        f"{record.expires_at:%Y-%m-%d}" if record.expires_at else "never",
        record.state,
    )


def _check_user(data_dir: Path) -> None:
    """Refuses to write what the service cannot read, as root might.

    Raises:
        CommandRefused: The data directory is another user's.
    """
    if owner := owner_unlike_root(data_dir):
        raise CommandRefused(f"{data_dir} belongs to user {owner}; run this as that user")


@contextlib.contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Tells what is wrong with the folder of the records.

    Raises:
        CommandRefused: It cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        raise CommandRefused(f"cannot use {folder} for keys: {error.strerror}") from error
