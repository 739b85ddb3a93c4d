"""Parts of a file, read as if they were one: a large picture is not copied to leave some out."""

from __future__ import annotations

import io
import time
from bisect import bisect_right
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING

from twinlens.shared.errors import PictureTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _typeshed import WriteableBuffer

# As much as Pillow asks for at a time.
_BUFFER_BYTES = 1 << 16
# When reading ends, and how long it may take: in seconds of this thread's processor time, which no
# other work of the machine takes up.
_deadline_s: ContextVar[tuple[float, float]] = ContextVar("deadline_s", default=(inf, inf))


@contextmanager
def read_within(limit_s: float) -> Iterator[None]:
    """Ends whoever reads a spliced file in this thread for longer, at the next piece of it.

    Args:
        limit_s: Seconds of processor time.

    Raises:
        PictureTooLarge: It took longer.
    """
    token = _deadline_s.set((time.thread_time() + limit_s, limit_s))
    try:
        yield
    finally:
        _deadline_s.reset(token)


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
        self._position = max(self._position, self._ends[-1])
        return content

    def readinto(self, buffer: WriteableBuffer) -> int:
        deadline_s, limit_s = _deadline_s.get()
        if time.thread_time() > deadline_s:
            raise PictureTooLarge(
                f"decoding the picture takes longer than {limit_s:g} s; send a smaller one, or save"
                " it anew"
            )
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
