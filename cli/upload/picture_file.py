"""A picture to be sent, wherever it lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from lzma import LZMAError
from typing import IO, TYPE_CHECKING
from zipfile import BadZipFile
from zlib import error as ZlibError  # noqa: N812 (the name of a class)

from twinlens.shared.names import clean_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import PurePath

    from twinlens.shared.messages import Metadata

# What reading raises; in archives, of encrypted entries RuntimeError, of an unknown compression
# its subclass NotImplementedError, and of a name in no known code ValueError.
_READ_ERRORS = (OSError, EOFError, RuntimeError, ValueError, BadZipFile, ZlibError, LZMAError)


class Unreadable(Exception):
    """A picture whose bytes cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture in a folder or an archive, read when its batch is sent.

    Attributes:
        path: Where it lies, in an archive after the archive's own path.
        below: Where it lies below the folder, or in the archive, that the user named.
        n_bytes: Its size; 0 if unknown.
        open: Opens it.
        is_sure: Whether it is sent whatever it begins like.
        metadata: What is known of it beside its bytes.
    """

    path: PurePath
    below: PurePath
    n_bytes: int
    open: Callable[[], IO[bytes]]
    is_sure: bool = True
    metadata: Metadata = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name for the service, with its folders."""
        return clean_name(str(self.below)) or "\ufffd"

    def read(self, n_bytes: int = -1) -> bytes:
        """Reads all of it, or its beginning.

        Raises:
            Unreadable: It cannot be read.
        """
        try:
            with self.open() as file:
                return file.read(n_bytes)
        except _READ_ERRORS as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise Unreadable(reason or str(error) or "it is cut short") from None
