"""Parts of a file, read as if they were one: a large picture is not copied to leave some out."""

from __future__ import annotations

import io
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import WriteableBuffer

# As much as Pillow asks for at a time.
_BUFFER_BYTES = 1 << 16


def splice(parts: Sequence[bytes | memoryview]) -> io.BufferedReader:
    """Returns a readable, seekable stream of the parts, one behind the other."""
    return io.BufferedReader(_Splice(parts), _BUFFER_BYTES)


class _Splice(io.RawIOBase):
    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        self._parts = [memoryview(part) for part in parts]
        self._ends = list(accumulate(len(part) for part in self._parts))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        self._position = base + offset
        return self._position

    def readall(self) -> bytes:
        """Without which the rest of the file would be gathered in small pieces."""
        content = b"".join(self._parts)[self._position :]
        self._position = self._ends[-1]
        return content

    def readinto(self, buffer: WriteableBuffer) -> int:
        index = bisect_right(self._ends, self._position)
        if index == len(self._parts):
            return 0
        target = memoryview(buffer).cast("B")
        part = self._parts[index]
        start = self._position - (self._ends[index] - len(part))
        piece = part[start : start + len(target)]
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)
