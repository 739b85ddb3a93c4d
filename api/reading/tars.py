"""Tar archives, plain or packed with gzip or zstd, as streams of entries.

They are read front to back as they arrive, so memory does not grow with the archive.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, cast

import zstandard

from twinlens.api.reading.archives import check_ratio, is_noise, is_unsafe, read_bounded
from twinlens.api.reading.uploads import READ_BYTES, Entry, as_chunks, picture_entry, refused_entry
from twinlens.shared.errors import BadArchive, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# A zstd frame may ask for a window of 2 TiB; `zstd --long` writes up to this much.
MAX_ZSTD_WINDOW_BYTES = 128 * 1024 * 1024
# A name, or the attributes of a file: tarfile reads them whole.
MAX_HEADER_BYTES = 1024 * 1024
# Two empty blocks end an archive, which is made of whole blocks.
BLOCK_BYTES = tarfile.BLOCKSIZE
_END = bytes(2 * BLOCK_BYTES)


def tar_entries(body: Iterable[bytes], max_items: int, max_picture: int) -> Iterator[Entry]:
    """Yields the pictures of a tar archive, in the order of the archive.

    What is not a regular file, or has a name that leads outside, becomes a refused entry.

    Raises:
        BadArchive: It is not a tar archive, is cut short, or holds a bomb.
        PayloadTooLarge: It has too many entries.
    """
    head, body = _with_head(body)
    packed = _Counted(_Pieces(body))
    unpacked = _Unpacked(_unpacked(head, packed), packed)
    try:
        yield from _entries(unpacked, max_items, max_picture)
        for _ in as_chunks(unpacked):
            pass
    except (tarfile.TarError, EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise BadArchive(f"The archive cannot be read: {error}.") from None
    if unpacked.tail != _END or unpacked.n_bytes % BLOCK_BYTES:
        raise BadArchive("The archive is cut short: its end is missing.")


def _entries(unpacked: _Unpacked, max_items: int, max_picture: int) -> Iterator[Entry]:
    n_items = 0
    with tarfile.open(
        fileobj=cast("IO[bytes]", unpacked), mode="r|", tarinfo=_BoundedInfo
    ) as archive:
        for member in archive:
            # Otherwise it would keep every member that it has seen.
            archive.members = []  # type: ignore[attr-defined]
            if member.isdir() or is_noise(member.name):
                continue
            n_items += 1
            if n_items > max_items:
                raise PayloadTooLarge(f"The archive has more than {max_items} pictures.")
            yield _read_entry(archive, member, max_picture)


def _read_entry(archive: tarfile.TarFile, member: tarfile.TarInfo, max_picture: int) -> Entry:
    name = member.name
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        return refused_entry(name, BadArchive("The entry is not a regular file."))
    if is_unsafe(name):
        return refused_entry(name, BadArchive("The entry's name leads outside the archive."))
    return picture_entry(name, read_bounded(as_chunks(content), max_picture), max_picture)


def _with_head(body: Iterable[bytes]) -> tuple[bytes, Iterable[bytes]]:
    """Returns the first bytes of a body, and all of it."""
    pieces = iter(body)
    head = b""
    while len(head) < len(_ZSTD) and (piece := next(pieces, None)) is not None:
        head += piece
    return head, chain([head], pieces)


def _unpacked(head: bytes, packed: _Counted) -> IO[bytes]:
    if head.startswith(_GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=packed, mode="rb"))
    if head.startswith(_ZSTD):
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
        reader = unpacker.stream_reader(packed, read_across_frames=True)
        return cast("IO[bytes]", reader)
    return packed


class _BoundedInfo(tarfile.TarInfo):
    """Refuses names and attributes that would fill memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        # A regular file may be as large as it likes: it is read in pieces.
        if not self.isreg() and self.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header is too long")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Pieces(io.RawIOBase):
    """An iterable of bytes as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        n_bytes = min(len(buffer), len(self._left))
        buffer[:n_bytes], self._left = self._left[:n_bytes], self._left[n_bytes:]
        return n_bytes


class _Counted(io.BufferedReader):
    """Counts the bytes that are read from it."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw, READ_BYTES)
        self.n_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.n_bytes += len(content)
        return content


class _Unpacked(io.RawIOBase):
    """Watches how much a stream unpacks to, and keeps its last bytes."""

    def __init__(self, stream: IO[bytes], packed: _Counted) -> None:
        self._stream = stream
        self._packed = packed
        self.n_bytes = 0
        self.tail = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        content = self._stream.read(size)
        self.n_bytes += len(content)
        self.tail = (self.tail + content[-len(_END) :])[-len(_END) :]
        check_ratio(self.n_bytes, self._packed.n_bytes)
        return content
