"""`twinlens backup` and `restore`: the options. The work is in `run.py`, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twinlens.cli.output import json_option
from twinlens.cli.settings import keep_private, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twinlens.shared.settings import Settings

folder_argument = click.argument(
    "folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path)
)


def _check_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from pydantic import TypeAdapter, ValidationError

    from twinlens.shared.libraries import LibraryName

    try:
        return TypeAdapter[str | None](LibraryName | None).validate_python(value)
    except ValidationError:
        reason = f"{value!r} cannot be a library's name: give a to z, 0 to 9, and single - between"
        raise click.BadParameter(reason, ctx, param) from None


def stores_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say where a service has what it has."""
    for option in (
        click.option("--milvus-uri", help="Its Milvus.  [default: that of `twinlens up`]"),
        click.option("--redis-url", help="Its Redis or Valkey.  [default: that of `twinlens up`]"),
        click.option(
            "--data-dir", type=click.Path(path_type=Path), help="Folder of the service's data."
        ),
    ):
        command = option(command)
    return command


@click.command()
@folder_argument
@click.option(
    "--verify", "is_verifying", is_flag=True, help="Read what is in DIR already, and mend it."
)
@json_option
@stores_options
def backup(folder: Path, is_verifying: bool, **options: object) -> None:
    """Copy all libraries into DIR, while the service runs.

    DIR is empty, or has an earlier backup: then what is new is copied, and what was removed since
    is removed there. Run it on the service's machine, as its user.
    """
    from twinlens.cli.backup.run import run_backup

    keep_private()
    run_backup(_settings_of(options), folder, is_verifying=is_verifying)


@click.command()
@folder_argument
@click.option(
    "--library",
    "names",
    multiple=True,
    metavar="NAME",
    help="Library to restore; repeatable.  [default: all]",
)
@click.option(
    "--into", metavar="NAME", callback=_check_name, help="Restore one library under another name."
)
@json_option
@stores_options
def restore(folder: Path, names: tuple[str, ...], into: str | None, **options: object) -> None:
    """Bring the libraries of the backup in DIR into a running service.

    It must not have libraries of their names; `default` must be empty. If it was interrupted, run
    it again: it goes on. Run it on the service's machine, as its user.
    """
    from twinlens.cli.backup.run import run_restore

    keep_private()
    run_restore(_settings_of(options), folder, names, into)


def _settings_of(options: Mapping[str, object]) -> Settings:
    """Reads a service's settings; those of its stores that are not given, `up` has noted."""
    from twinlens.cli.service.addresses import with_noted_stores

    return with_noted_stores(read_settings(options))
