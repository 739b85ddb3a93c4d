"""Files that users name: only regular ones are opened.

Who opens a pipe waits until somebody writes into it, and a device may have no end.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import BinaryIO

_SPECIAL = {
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def special_kind(mode: int) -> str | None:
    """Returns what a file is that is not one to read, by its `st_mode`; None for all others."""
    return _SPECIAL.get(stat.S_IFMT(mode))


def check_regular(path: Path) -> None:
    """Looks at a file without opening it.

    Raises:
        OSError: It is a pipe, a socket or a device, or it is not there.
    """
    kind = special_kind(path.stat().st_mode)
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is a {kind}; give a file", str(path))


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading.

    Raises:
        OSError: It cannot be opened, or is a pipe, a socket or a device.
    """
    check_regular(path)
    return path.open("rb")
