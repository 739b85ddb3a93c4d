"""The methods of ZIP archives: how an entry's bytes are unpacked as they come."""

from __future__ import annotations

import bz2
import zlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

STORED, DEFLATED, BZIP2 = 0, 8, 12
SERVED_METHODS = frozenset({STORED, DEFLATED, BZIP2})
# In the words of APPNOTE 4.4.5, for those that are not served. Deflate64 has no decoder whose time
# is bounded by what it is given: docs/decisions/0015-zip.md.
METHOD_NAMES = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    14: "LZMA",
    20: "Zstandard",
    93: "Zstandard",
    95: "XZ",
    96: "JPEG",
    98: "PPMd",
}
# What is unpacked at once: a piece of 64 KiB may hold 64 MB.
MAX_OUT_BYTES = 256 * 1024


class Damaged(Exception):
    """An entry's bytes are not what they should be."""


class Unpacker(Protocol):
    """Unpacks one entry."""

    @property
    def is_done(self) -> bool:
        """Whether all of the entry has come out."""

    @property
    def n_unused(self) -> int:
        """How many bytes of the last piece are behind the entry, once it is done."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Takes a piece, and gives what comes out of it.

        Raises:
            Damaged: It is no such thing.
        """


def unpacker_of(method: int, n_packed: int) -> Unpacker:
    """Returns what unpacks an entry of a method that is served.

    Args:
        method: Its number.
        n_packed: Of a stored entry, its size in bytes.
    """
    if method == STORED:
        return _Stored(n_packed)
    if method == DEFLATED:
        return _Packed(zlib.decompressobj(-zlib.MAX_WBITS))
    return _Packed(bz2.BZ2Decompressor())


def unpack(unpacker: Unpacker, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Unpacks an entry, as far as there are pieces; no more of them are taken than it needs.

    Raises:
        Damaged: It cannot be unpacked.
    """
    while not unpacker.is_done and (piece := next(pieces, b"")):
        yield from unpacker.feed(piece)


class _Stored:
    def __init__(self, n_bytes: int) -> None:
        self._n_left = n_bytes
        self.n_unused = 0

    @property
    def is_done(self) -> bool:
        return self._n_left == 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        own = piece[: self._n_left]
        self._n_left -= len(own)
        self.n_unused = len(piece) - len(own)
        yield own


class _Packed:
    """What the decompressors of zlib and bz2 have in common."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @property
    def is_done(self) -> bool:
        return bool(self._inner.eof)

    @property
    def n_unused(self) -> int:
        return len(self._inner.unused_data)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        out = b"-"
        # What was taken in may still come out when no more goes in.
        while not self.is_done and (piece or out):
            try:
                out = self._inner.decompress(piece, MAX_OUT_BYTES)
            except (zlib.error, OSError):
                raise Damaged from None
            # Of what zlib did not take; bz2 keeps it itself.
            piece = getattr(self._inner, "unconsumed_tail", b"")
            if out:
                yield out
