"""ZIP archives as streams of entries: memory does not grow with the archive.

An archive is read front to back, as it arrives. Where an entry does not tell its end, the rest
waits on the disk and is read by the directory at its end. docs/decisions/0015-zip.md.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from twinlens.api.reading.archives import Allowance, entry_by_name
from twinlens.api.reading.byte_streams import ByteStream, CutShort
from twinlens.api.reading.unpackers import STORED, Damaged, Unpacker, unpack, unpacker_of
from twinlens.api.reading.uploads import Entry, picture_entry, read_at_most, refused_entry
from twinlens.api.reading.zip_records import (
    CENTRAL,
    DESCRIPTOR_BYTES,
    END,
    LOCAL,
    LOCAL_HEAD,
    SIGNATURE_BYTES,
    ZIP64_END,
    Head,
    directory,
    directory_start,
    find_descriptor,
    take_local,
)
from twinlens.shared.errors import BadArchive

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from twinlens.api.reading.spools import Spool, Spooler

# An archive that was to be split and did not need to be; the first part of one that is (8.5).
_UNSPLIT, _SPLIT = b"PK00", b"PK\x07\x08"


def zip_entries(
    body: Iterable[bytes], max_items: int, max_picture: int, spooler: Spooler
) -> Iterator[Entry]:
    """Gives the pictures of a ZIP archive.

    A bad entry is given as a refused one, and the rest goes on; what makes the rest
    unreadable refuses the archive.

    Args:
        body: The archive, in pieces.
        max_items: So many pictures may it have.
        max_picture: So many bytes may a picture have.
        spooler: Where the rest waits if it cannot be read as it arrives.

    Raises:
        BadArchive: It is no ZIP archive, is cut short, or unpacks to far more than pictures do.
        PayloadTooLarge: It has too many entries.
    """
    allowance = Allowance(max_items)
    stream = ByteStream(allowance.incoming(body))
    entries = _entries(stream, _Reader(allowance, max_picture), spooler)
    try:
        yield from allowance.admit(entries)
    except CutShort:
        raise BadArchive("The archive is cut short.") from None


class _Rest(NamedTuple):
    """What of an archive cannot be read as it arrives, and what was given before it."""

    start: int
    pieces: Iterable[bytes]
    n_given: int
    last_given: int  # offset of its head; -1 if there is none


def _entries(stream: ByteStream, reader: _Reader, spooler: Spooler) -> Iterator[Entry | None]:
    _check_start(stream)
    rest = yield from _arriving(stream, reader)
    if rest is not None:
        with spooler.spooled(rest.pieces, rest.start) as spool:
            yield from _by_directory(spool, rest, reader)


def _check_start(stream: ByteStream) -> None:
    """Refuses what only ends as an archive: a picture, or a program, with one behind it."""
    if stream.peek(SIGNATURE_BYTES) == _UNSPLIT:
        stream.take(SIGNATURE_BYTES)
    signature = stream.peek(SIGNATURE_BYTES)
    if signature == _SPLIT:
        raise BadArchive("The archive is split; join its parts first (`zip -s 0`).")
    if signature not in (LOCAL, END, ZIP64_END):
        raise BadArchive("It does not begin as a ZIP archive.")


def _arriving(stream: ByteStream, reader: _Reader) -> Generator[Entry | None, None, _Rest | None]:
    """Gives entries as they arrive, as far as each tells where it ends."""
    n_given, last = 0, -1
    while stream.peek(SIGNATURE_BYTES) == LOCAL:
        head, raw = take_local(stream)
        if head.is_open and not _tells_its_end(head):
            return _Rest(head.offset, chain([raw], stream.rest()), n_given, last)
        n_given, last = n_given + 1, head.offset
        if head.is_open:
            yield reader.open_entry(head, stream)
        else:
            pieces = stream.pieces(head.n_packed)
            yield reader.sized_entry(head, pieces)
            for _ in pieces:
                pass
    if stream.peek(SIGNATURE_BYTES) not in (CENTRAL, END, ZIP64_END):
        return _Rest(stream.offset, stream.rest(), n_given, last)
    _check_number(n_given, sum(1 for _ in directory(stream)))
    return None


def _by_directory(spool: Spool, rest: _Rest, reader: _Reader) -> Iterator[Entry | None]:
    start = directory_start(spool)
    n_before, ground = 0, _Ground(start - spool.start)
    for head in directory(ByteStream(spool.pieces(start))):
        if head.offset <= rest.last_given:
            n_before += 1
            continue
        if head.offset >= spool.start:
            ground.take(head)
        yield reader.spooled_entry(head, spool)
    _check_number(rest.n_given, n_before)


class _Ground:
    """Sees that entries share no bytes: each may unpack little, and all of them without end."""

    def __init__(self, n_bytes: int) -> None:
        self._n_left = n_bytes
        self._last = range(0)

    def take(self, head: Head) -> None:
        """Takes an entry's bytes. In a directory that is in no order, only their sum is seen."""
        own = range(head.offset, head.offset + LOCAL_HEAD.size + head.n_packed)
        self._n_left -= own.stop - own.start
        if self._n_left < 0 or head.offset in self._last:
            raise BadArchive("Entries of the archive overlap.")
        self._last = own


def _check_number(n_given: int, n_told: int) -> None:
    if n_given != n_told:
        raise BadArchive(f"The archive has {n_given} entries where its directory has {n_told}.")


def _tells_its_end(head: Head) -> bool:
    """Tells if the end of an open entry can be seen in its bytes: not if they are only stored."""
    # Some give a size all the same. Without one, the entry may be empty; but what then looks like
    # a descriptor may be its bytes.
    is_seen = head.is_folder or head.method != STORED or head.n_packed > 0
    return is_seen and head.refusal() is None


@dataclass(frozen=True)
class _Reader:
    """Makes entries of heads and bytes; of folders, None."""

    allowance: Allowance
    max_picture: int

    def sized_entry(self, head: Head, pieces: Iterator[bytes]) -> Entry | None:
        """Reads an entry whose bytes are these, or as many of them as it takes."""
        if head.is_folder:
            return None
        if (known := entry_by_name(head.name, is_empty=head.n_bytes == 0)) is not None:
            return known
        if (refusal := head.refusal()) is not None:
            return refused_entry(head.name, refusal)
        unpacking = _Unpacking(unpacker_of(head.method, head.n_packed))
        content = self._read(unpacking, pieces)
        is_whole = (unpacking.crc, unpacking.n_bytes) == (head.crc, head.n_bytes)
        return self._picture(head, content, is_whole=is_whole and not unpacking.is_damaged)

    def open_entry(self, head: Head, stream: ByteStream) -> Entry | None:
        """Reads an entry up to where its bytes say that it ends, and the descriptor behind it."""
        start = stream.offset
        unpacking = _Unpacking(unpacker_of(head.method, head.n_packed))
        content = self._read(unpacking, stream.rest())
        is_whole = unpacking.leave(stream, start)
        if head.is_folder:
            return None
        known = entry_by_name(head.name, is_empty=unpacking.n_bytes == 0)
        return known or self._picture(head, content, is_whole=is_whole)

    def spooled_entry(self, head: Head, spool: Spool) -> Entry | None:
        """Reads an entry of the directory."""
        stream = ByteStream(spool.pieces(head.offset))
        if stream.peek(SIGNATURE_BYTES) == LOCAL:
            with suppress(CutShort):
                take_local(stream)
                return self.sized_entry(head, stream.pieces(head.n_packed))
        return refused_entry(head.name, BadArchive("The entry is not where the directory says."))

    def _read(self, unpacking: _Unpacking, pieces: Iterator[bytes]) -> bytes | None:
        return read_at_most(self.allowance.outgoing(unpacking.chunks(pieces)), self.max_picture)

    def _picture(self, head: Head, content: bytes | None, *, is_whole: bool) -> Entry:
        if not is_whole:
            return refused_entry(head.name, BadArchive("The entry's bytes are damaged."))
        return picture_entry(head.name, content, self.max_picture)


class _Unpacking:
    """Unpacks an entry, and sums up what comes out."""

    def __init__(self, unpacker: Unpacker) -> None:
        self._unpacker = unpacker
        self.n_bytes = 0
        self.crc = 0
        self.is_damaged = False

    def chunks(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        try:
            for chunk in unpack(self._unpacker, pieces):
                self.n_bytes += len(chunk)
                self.crc = zlib.crc32(chunk, self.crc)
                yield chunk
        except Damaged:
            self.is_damaged = True

    def leave(self, stream: ByteStream, start: int) -> bool:
        """Goes to where an open entry ends that began there.

        Returns:
            Whether what is behind it says the same of it. If nothing is, or it is damaged, the
            stream stands where that showed.
        """
        if self.is_damaged:
            stream.give_back_piece()
            return False
        stream.give_back(self._unpacker.n_unused)
        ahead = stream.peek(DESCRIPTOR_BYTES)
        descriptor = find_descriptor(ahead, self.crc, stream.offset - start, self.n_bytes)
        if descriptor is None:
            return False
        stream.take(descriptor.n_bytes)
        return descriptor.is_right
