"""A stream that is read by lengths: so many bytes, or whatever comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK_BYTES = 64 * 1024


class CutShort(Exception):
    """The stream ended before it should."""


class ByteStream:
    """Pieces as one stream, of which some 64 KiB are held.

    It gives the same pieces however its source was cut: what is made of an upload, even of a
    damaged one, must not depend on the network if it is sent again.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._blocks = _blocks(pieces)
        self._block = b""
        self._at = 0
        self._n_last = 0
        self._block_end = 0  # offset of what is behind the block

    @property
    def offset(self) -> int:
        """How many bytes were read so far."""
        return self._block_end - len(self._block) + self._at

    def take(self, n_bytes: int) -> bytes:
        """Reads so many bytes.

        Raises:
            CutShort: There are fewer.
        """
        return b"".join(self.pieces(n_bytes))

    def pieces(self, n_bytes: int) -> Iterator[bytes]:
        """Gives so many bytes in pieces.

        Raises:
            CutShort: There are fewer.
        """
        while n_bytes:
            piece = self.next_piece(n_bytes)
            if not piece:
                raise CutShort
            n_bytes -= len(piece)
            yield piece

    def next_piece(self, max_bytes: int = BLOCK_BYTES) -> bytes:
        """Reads what is at hand; nothing at the end."""
        if self._at == len(self._block):
            self._append_block()
        piece = self._block[self._at : self._at + max_bytes]
        self._n_last = len(piece)
        self._at += len(piece)
        return piece

    def rest(self) -> Iterator[bytes]:
        """Gives all that is left, in pieces."""
        return iter(self.next_piece, b"")

    def peek(self, n_bytes: int) -> bytes:
        """Looks at the next bytes, fewer at the end, without reading them."""
        while len(self._block) - self._at < n_bytes and self._append_block():
            pass
        return self._block[self._at : self._at + n_bytes]

    def give_back(self, n_bytes: int) -> None:
        """Makes the end of the last piece unread; nothing else was read since."""
        self._at -= n_bytes

    def give_back_piece(self) -> None:
        """Makes the last piece unread; nothing else was read since."""
        self._at -= self._n_last

    def _append_block(self) -> bool:
        block = next(self._blocks, b"")
        self._block = self._block[self._at :] + block
        self._at = 0
        self._block_end += len(block)
        return bool(block)


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    n_held = 0
    for piece in pieces:
        held.append(piece)
        n_held += len(piece)
        if n_held >= BLOCK_BYTES:
            whole = b"".join(held)
            end = n_held - n_held % BLOCK_BYTES
            for start in range(0, end, BLOCK_BYTES):
                yield whole[start : start + BLOCK_BYTES]
            held, n_held = [whole[end:]], n_held - end
    if n_held:
        yield b"".join(held)
