"""`twinlens keys …`: the options. The work is done in `records.py`, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twinlens.cli.output import json_option
from twinlens.cli.parameters import read_as
from twinlens.cli.settings import keep_private, read_settings
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.api.access.keys import Scope
    from twinlens.shared.settings import Settings

# Each includes those before it: as of twinlens.api.access.keys, which --help is spared.
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")


class _Expiry(click.ParamType[datetime]):
    """When a key ends: in so many days, or as a date begins."""

    name = "days|date"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        now = datetime.now(UTC)
        try:
            ends = now + timedelta(days=int(str(value)))
        except OverflowError:
            return self.fail(f"{value} days are too many", param, ctx)
        except ValueError:
            ends = self._date(str(value), param, ctx)
        if ends <= now:
            self.fail(f"{value} is not in the future", param, ctx)
        return ends

    def _date(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            return datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            return self.fail(f"{value!r} is neither a number of days nor a date", param, ctx)


data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of the service's data."
)


@click.group()
def keys() -> None:
    """Make, list and revoke the keys that let others use the service."""


@keys.command(short_help="Make a key.")
@click.option("--name", default="", help="What, or whom, it is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=("read",),
    show_default=True,
    help="What it is for: to search and look, to add and remove pictures too, or to change "
    "libraries too. The widest counts.",
)
@click.option(
    "--library",
    "libraries",
    multiple=True,
    help="Hold it to this library, which may not be there yet; repeatable.  [default: all]",
)
@click.option(
    "--expires", type=_Expiry(), help="Days until it ends, or the date (UTC) that it ends with."
)
@click.option(
    "--requests-per-minute",
    type=click.IntRange(0),
    help="Most requests with it a minute; 0 for no limit.  [default: as the service is set]",
)
@click.option("--if-none", is_flag=True, help="Make none where there is one.")
@data_dir_option
@json_option
def create(
    name: str,
    scopes: Sequence[Scope],
    libraries: tuple[str, ...],
    expires: datetime | None,
    requests_per_minute: int | None,
    if_none: bool,
    data_dir: Path | None,
) -> None:
    """Make a key, and show it, once. A service that runs knows it at once.

    From the first key on, every request needs one.
    """
    from twinlens.api.access.keys import Grant, new_key
    from twinlens.cli.keys.records import create_key

    grant = read_as(
        Grant,
        scope=max(scopes, key=SCOPES.index),
        libraries=libraries or None,
        requests_per_minute=requests_per_minute,
    )
    create_key(_settings(data_dir), new_key(grant, printable(name), expires), if_none=if_none)


@keys.command("list")
@data_dir_option
@json_option
def list_(data_dir: Path | None) -> None:
    """List the keys, and what each allows. The keys themselves are not kept."""
    from twinlens.cli.keys.records import list_keys

    list_keys(_settings(data_dir))


@keys.command()
@click.argument("key_id", metavar="ID")
@data_dir_option
@json_option
def revoke(key_id: str, data_dir: Path | None) -> None:
    """End a key: a service that runs refuses it at once."""
    from twinlens.cli.keys.records import revoke_key

    revoke_key(_settings(data_dir), key_id)


def _settings(data_dir: Path | None) -> Settings:
    keep_private()
    return read_settings({"data_dir": data_dir})
