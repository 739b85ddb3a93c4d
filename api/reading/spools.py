"""Streams that must be read in another order than they come: they wait on the disk."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.api.reading.byte_streams import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Spool:
    """A stream from some place on, under the offsets that it had."""

    handle: int
    start: int
    end: int

    def pieces(self, offset: int) -> Iterator[bytes]:
        """Gives what is there from an offset on; nothing where that is outside."""
        while self.start <= offset < self.end and (
            piece := os.pread(self.handle, BLOCK_BYTES, offset - self.start)
        ):
            offset += len(piece)
            yield piece


@dataclass(frozen=True)
class Spooler:
    """Where streams wait.

    Attributes:
        folder: On the disk that has room for uploads.
        check_disk: Called with a number of bytes; raises where they would fill the disk.
    """

    folder: Path
    check_disk: Callable[[int], None]

    @contextmanager
    def spooled(self, pieces: Iterable[bytes], start: int) -> Iterator[Spool]:
        """Writes a stream to a file without a name, which no crash can leave behind.

        Args:
            pieces: The stream.
            start: Offset of its first byte.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            n_bytes = 0
            for piece in pieces:
                self.check_disk(len(piece))
                n_bytes += file.write(piece)
            file.flush()
            yield Spool(file.fileno(), start, start + n_bytes)
