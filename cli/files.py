"""What commands read of files that the user named."""

from __future__ import annotations

import codecs
import sys
from pathlib import Path

from twinlens.cli.errors import CommandFailed
from twinlens.shared.files import check_regular, open_regular

STDIN = Path("-")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_file(path: Path) -> bytes:
    """Reads a file, or standard input where that is meant.

    Raises:
        CommandFailed: It cannot be read, or is a pipe, a socket or a device.
    """
    if path == STDIN:
        return sys.stdin.buffer.read()
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from None


def read_json(path: Path) -> bytes:
    """Reads a JSON file as UTF-8, without the byte order mark that some programs begin with.

    Raises:
        CommandFailed: It cannot be read.
    """
    content = read_file(path)
    if content.startswith(_UTF_16):
        return content.decode("utf-16", "replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def checked(path: Path) -> Path:
    """Returns a file that something else opens by its path.

    Raises:
        CommandFailed: It is not there, or is a pipe, a socket or a device.
    """
    try:
        check_regular(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    return path


def _unreadable(path: Path, error: OSError) -> CommandFailed:
    return CommandFailed(f"{path} cannot be read: {error.strerror or error}")
