"""Tar archives, plain or packed with gzip or zstd, as streams of entries.

They are read front to back as they arrive, so memory does not grow with the archive. Several in
one file are read on, as by `tar --ignore-zeros`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from itertools import chain
from typing import TYPE_CHECKING, Any

import zstandard

from twinlens.api.reading.archives import Allowance, entry_by_name
from twinlens.api.reading.byte_streams import ByteStream, CutShort
from twinlens.api.reading.tar_heads import BLOCK_BYTES, Member, take_member
from twinlens.api.reading.uploads import (
    READ_BYTES,
    Earlier,
    Entry,
    as_chunks,
    picture_entry,
    read_at_most,
    refused_entry,
)
from twinlens.shared.errors import BadArchive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# A zstd frame may ask for a window of 2 TiB; `zstd --long` writes up to this much.
MAX_ZSTD_WINDOW_BYTES = 128 * 1024 * 1024
_EMPTY_BLOCK = bytes(BLOCK_BYTES)
# So many empty blocks end an archive.
_N_END_BLOCKS = 2
# Hard links may name one of so many pictures before them, of each of which 0.3 kB are held.
MAX_LINKED = 10_000


def tar_entries(body: Iterable[bytes], max_items: int, max_picture: int) -> Iterator[Entry]:
    """Gives the pictures of a tar archive, in the order of the archive.

    A hard link is the picture that it links to. What else is no regular file, or has a name that
    leads outside, is a refused entry.

    Args:
        body: The archive, in pieces.
        max_items: So many pictures may it have.
        max_picture: So many bytes may a picture have.

    Raises:
        BadArchive: It is no tar archive, is cut short, or unpacks to far more than pictures do.
        PayloadTooLarge: It has too many entries.
    """
    allowance = Allowance(max_items)
    stream = ByteStream(allowance.outgoing(_unpacked(allowance.incoming(body))))
    try:
        yield from allowance.admit(_Reader(stream, max_picture).entries())
    except (CutShort, EOFError):
        raise BadArchive("The archive is cut short: its end is missing.") from None
    except (tarfile.TarError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise BadArchive(f"The archive cannot be read: {error}.") from None


class _Reader:
    """Makes entries of a stream's members; of folders, None."""

    def __init__(self, stream: ByteStream, max_picture: int) -> None:
        self._stream = stream
        self._max_picture = max_picture
        self._linked: dict[bytes, Earlier] = {}

    def entries(self) -> Iterator[Entry | None]:
        shared: dict[str, str] = {}
        n_empty = 0
        while block := self._stream.peek(BLOCK_BYTES):
            if block == _EMPTY_BLOCK:
                self._stream.take(BLOCK_BYTES)
                n_empty += 1
            else:
                n_empty = 0
                yield from self._read(take_member(self._stream, shared))
        if n_empty < _N_END_BLOCKS:
            raise CutShort

    def _read(self, member: Member) -> Iterator[Entry | None]:
        pieces = self._stream.pieces(member.n_bytes)
        entry = None if member.is_folder else self._entry(member, pieces)
        yield entry
        if entry is not None:
            self._remember(member.name, entry)
        for _ in chain(pieces, self._stream.pieces(-member.n_bytes % BLOCK_BYTES)):
            pass

    def _entry(self, member: Member, pieces: Iterator[bytes]) -> Entry:
        known = entry_by_name(member.name, is_empty=member.is_file and member.n_bytes == 0)
        if known is not None:
            return known
        if member.is_hard_link:
            return self._link(member)
        if member.is_sparse:
            return refused_entry(member.name, BadArchive("The entry is sparse: it has holes."))
        if not member.is_file:
            return refused_entry(member.name, BadArchive("The entry is no regular file."))
        content = read_at_most(pieces, self._max_picture)
        return picture_entry(member.name, content, self._max_picture)

    def _link(self, member: Member) -> Entry:
        earlier = self._linked.get(_key(member.link))
        if earlier is None:
            reason = f"It is a link, to none of the last {MAX_LINKED} pictures before it."
            return refused_entry(member.name, BadArchive(reason))
        return Entry(member.name, earlier=earlier)

    def _remember(self, name: str, entry: Entry) -> None:
        if entry.content:
            self._linked[_key(name)] = Earlier(entry.image_id, len(entry.content))
        elif entry.earlier is not None:
            self._linked[_key(name)] = entry.earlier
        while len(self._linked) > MAX_LINKED:
            del self._linked[next(iter(self._linked))]


def _key(name: str) -> bytes:
    """Returns what stands for a name, which may have 4,096 characters."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def _unpacked(body: Iterable[bytes]) -> Iterator[bytes]:
    stream = ByteStream(body)
    head = stream.peek(len(_ZSTD))
    packed = io.BufferedReader(_Pieces(stream.rest()), READ_BYTES)
    if head.startswith(_GZIP):
        return as_chunks(gzip.GzipFile(fileobj=packed, mode="rb"))
    if head.startswith(_ZSTD):
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
        return as_chunks(unpacker.stream_reader(packed, read_across_frames=True))
    return stream.rest()


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
