"""What commands need that are parts of the service, or work on its data directory."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from twinlens.shared.settings import Settings


def keep_private() -> None:
    """Lets nobody else read what this process and its children write: pictures, logs, addresses."""
    os.umask(0o077)


def owner_unlike_root(data_dir: Path) -> int | None:
    """Returns whose a data directory is, if we are root and it is another user's.

    What root writes there, the service could not read.
    """
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            return data_dir.stat().st_uid or None
    return None


def read_settings(options: Mapping[str, object]) -> Settings:
    """Reads the settings; options override the environment.

    Raises:
        CommandRefused: One is not valid.
    """
    from pydantic import ValidationError

    from twinlens.cli.errors import CommandRefused
    from twinlens.shared.settings import Settings

    # pydantic-settings has options of its own, of many types, among the same arguments.
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(map(str, first["loc"])).upper()
        raise CommandRefused(f"setting TWINLENS_{name}: {first['msg']}") from None
