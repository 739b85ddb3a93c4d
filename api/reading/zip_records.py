"""The records of ZIP archives: heads of entries, what is behind an entry, the directory, the end.

Source:
    APPNOTE.TXT 6.3.10 of PKWARE.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from twinlens.api.reading.byte_streams import ByteStream
from twinlens.api.reading.unpackers import METHOD_NAMES, SERVED_METHODS
from twinlens.shared.errors import BadArchive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twinlens.api.reading.spools import Spool

SIGNATURE_BYTES = 4
LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
ZIP64_END, ZIP64_LOCATOR = b"PK\x06\x06", b"PK\x06\x07"
_DESCRIPTOR, _SIGNED = b"PK\x07\x08", b"PK\x05\x05"

LOCAL_HEAD = Struct("<4s5H3I2H")
_CENTRAL_HEAD = Struct("<4s6H3I5H2I")
END_RECORD = Struct("<4s4H2IH")
MAX_COMMENT_BYTES = 65_535
# The longest descriptor, and the signature behind it.
DESCRIPTOR_BYTES = 24 + SIGNATURE_BYTES
_LOCATOR_BYTES, _ZIP64_END_BYTES = 20, 56
_NO_END = "The archive is cut short: its end record is missing."

# Bits of the flags (4.4.4).
_ENCRYPTED, _OPEN, _PATCHED, UTF8, _MASKED = 1 << 0, 1 << 3, 1 << 5, 1 << 11, 1 << 13
# Extra fields (4.5.3, 4.6.9).
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075
_AES = 99
# What does not fit its place is in a ZIP64 record. Some writers give what is left of a number.
_MANY, _LARGE = 0xFFFF, 0xFFFFFFFF


class Head(NamedTuple):
    """What an archive says of an entry, before its bytes or in the directory."""

    name: str
    flags: int
    method: int
    crc: int
    n_packed: int
    n_bytes: int
    offset: int  # of the head before its bytes

    @property
    def is_open(self) -> bool:
        """Whether sizes and CRC are behind the bytes, in a descriptor."""
        return bool(self.flags & _OPEN)

    @property
    def is_folder(self) -> bool:
        return self.name.endswith(("/", "\\"))

    def refusal(self) -> BadArchive | None:
        """Returns why the entry's bytes are not read, if they are not."""
        if self.flags & _ENCRYPTED or self.method == _AES:
            return BadArchive("The entry is encrypted; send it without a password.")
        if self.flags & _PATCHED or self.method not in SERVED_METHODS:
            method = f"{METHOD_NAMES.get(self.method, 'method')} ({self.method})"
            return BadArchive(f"The entry is packed with {method}; pack it with Deflate.")
        return None


class Descriptor(NamedTuple):
    """What stands behind an open entry. The better one is greater."""

    is_right: bool  # whether it says what was read
    is_followed: bool  # whether another record comes next
    n_bytes: int


def take_local(stream: ByteStream) -> tuple[Head, bytes]:
    """Reads the head before an entry's bytes.

    Returns:
        The head, and the bytes that it was.

    Raises:
        BadArchive: Its name is encrypted.
        CutShort: It is not there.
    """
    offset = stream.offset
    fixed = stream.take(LOCAL_HEAD.size)
    _, _, flags, method, _, _, crc, n_packed, n_bytes, *lengths = LOCAL_HEAD.unpack(fixed)
    named = stream.take(sum(lengths))
    raw_name, fields = named[: lengths[0]], _fields_of(named[lengths[0] :])
    n_bytes, n_packed = _widen(fields, n_bytes, n_packed)
    _check_flags(flags)
    name = decode_name(raw_name, flags, named[lengths[0] :])
    return Head(name, flags, method, crc, n_packed, n_bytes, offset), fixed + named


def directory(stream: ByteStream) -> Iterator[Head]:
    """Gives the heads in the directory, then reads to the end of the archive.

    Raises:
        BadArchive: The end is missing, tells another number, or is not the end.
        CutShort: The archive ends too early.
    """
    n_entries = 0
    while stream.peek(SIGNATURE_BYTES) == CENTRAL:
        n_entries += 1
        yield _take_central(stream)
    _skip_to_end_record(stream)
    signature, disk, _, _, n_told, _, _, n_comment = END_RECORD.unpack(stream.take(END_RECORD.size))
    if signature != END:
        raise BadArchive(_NO_END)
    if disk not in (0, _MANY):
        raise BadArchive("The archive is split; join its parts first (`zip -s 0`).")
    if n_told not in (min(n_entries, _MANY), n_entries % (_MANY + 1)):
        raise BadArchive("The archive's end record tells another number of entries.")
    stream.take(n_comment)
    _check_behind(stream)


def directory_start(spool: Spool) -> int:
    """Returns the offset of the directory of an archive whose end is in a spool.

    Raises:
        BadArchive: It has none.
    """
    start = max(spool.start, spool.end - _LOCATOR_BYTES - END_RECORD.size - MAX_COMMENT_BYTES)
    tail = b"".join(spool.pieces(start))
    place = len(tail)
    # The last one, unless that is of the comment.
    while (place := tail.rfind(END, 0, place)) >= 0:
        if place + END_RECORD.size <= len(tail):
            offset = _directory_offset(tail, place, spool)
            if _read(spool, offset, SIGNATURE_BYTES) == CENTRAL:
                return offset
    raise BadArchive(_NO_END)


def _directory_offset(tail: bytes, place: int, spool: Spool) -> int:
    offset = END_RECORD.unpack_from(tail, place)[-2]
    locator = tail[max(0, place - _LOCATOR_BYTES) : place]
    if offset == _LARGE and locator.startswith(ZIP64_LOCATOR):
        record = _read(spool, int.from_bytes(locator[8:16], "little"), _ZIP64_END_BYTES)
        offset = int.from_bytes(record[-8:], "little")
    return int(offset)


def _read(spool: Spool, offset: int, n_bytes: int) -> bytes:
    return ByteStream(spool.pieces(offset)).peek(n_bytes)


def find_descriptor(ahead: bytes, crc: int, n_packed: int, n_bytes: int) -> Descriptor | None:
    """Returns what stands behind an open entry, as far as that can be told.

    Its signature is optional, its sizes have 4 bytes or 8 (4.3.9), and nothing says which.

    Args:
        ahead: DESCRIPTOR_BYTES behind the entry.
        crc: Of what was read.
        n_packed: How many bytes were read.
        n_bytes: How many came out of them.
    """
    layouts = []
    for signature in (_DESCRIPTOR, b""):
        for width in (4, 8):
            sizes = (n % (1 << 8 * width) for n in (n_packed, n_bytes))
            told = b"".join(size.to_bytes(width, "little") for size in sizes)
            told = signature + crc.to_bytes(4, "little") + told
            follower = ahead[len(told) : len(told) + SIGNATURE_BYTES]
            is_followed = follower in (LOCAL, CENTRAL)
            layouts.append(Descriptor(ahead.startswith(told), is_followed, len(told)))
    best = max(layouts)
    return best if best.is_right or best.is_followed else None


def _take_central(stream: ByteStream) -> Head:
    numbers = _CENTRAL_HEAD.unpack(stream.take(_CENTRAL_HEAD.size))
    _, _, _, flags, method, _, _, crc, n_packed, n_bytes, *lengths, _, _, _, offset = numbers
    raw_name, extra, _ = (stream.take(length) for length in lengths)
    fields = _fields_of(extra)
    n_bytes, n_packed, offset = _widen(fields, n_bytes, n_packed, offset)
    _check_flags(flags)
    return Head(decode_name(raw_name, flags, extra), flags, method, crc, n_packed, n_bytes, offset)


def _skip_to_end_record(stream: ByteStream) -> None:
    while (signature := stream.peek(SIGNATURE_BYTES)) in (_SIGNED, ZIP64_END, ZIP64_LOCATOR):
        n_bytes = _LOCATOR_BYTES
        if signature != ZIP64_LOCATOR:
            n_size = 2 if signature == _SIGNED else 8
            size = stream.peek(SIGNATURE_BYTES + n_size)[SIGNATURE_BYTES:]
            n_bytes = SIGNATURE_BYTES + n_size + int.from_bytes(size, "little")
        for _ in stream.pieces(n_bytes):
            pass


def _check_behind(stream: ByteStream) -> None:
    """Takes some padding or a signature behind the end, but never half of two archives."""
    behind = stream.peek(MAX_COMMENT_BYTES + 1)
    if END in behind:
        raise BadArchive("Another archive follows in the same file; send each by itself.")
    if len(behind) > MAX_COMMENT_BYTES:
        raise BadArchive(f"More than {MAX_COMMENT_BYTES} bytes follow the archive's end.")


def _check_flags(flags: int) -> None:
    if flags & _MASKED:
        raise BadArchive("The archive's names are encrypted; send it without a password.")


def _fields_of(extra: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    place = 0
    while place + 4 <= len(extra):
        kind, length = (int.from_bytes(extra[place + n : place + n + 2], "little") for n in (0, 2))
        fields.setdefault(kind, extra[place + 4 : place + 4 + length])
        place += 4 + length
    return fields


def _widen(fields: dict[int, bytes], *numbers: int) -> list[int]:
    """Puts numbers of the ZIP64 field, in this order, where they did not fit (4.5.3)."""
    wide = fields.get(_ZIP64, b"")
    widened = []
    for number in numbers:
        is_wide = number == _LARGE and len(wide) >= 8
        widened.append(int.from_bytes(wide[:8], "little") if is_wide else number)
        wide = wide[8:] if is_wide else wide
    return widened


def decode_name(raw: bytes, flags: int, extra: bytes) -> str:
    """Returns an entry's name: in UTF-8 where it says so or is that, else in code page 437.

    Args:
        raw: The name as it is stored.
        flags: Of the entry.
        extra: Its extra fields, of which one may have the name in Unicode.
    """
    path = _fields_of(extra).get(_UNICODE_PATH, b"")
    if flags & UTF8:
        return raw.decode(errors="replace")
    # Version 1, and the CRC of the name that it stands for: a tool may have renamed the entry.
    if path[:5] == b"\x01" + zlib.crc32(raw).to_bytes(4, "little"):
        return path[5:].decode(errors="replace")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")
