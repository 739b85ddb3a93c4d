"""ZIP and tar archives as others write them, also badly."""

from __future__ import annotations

import bz2
import io
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from twinlens.api.reading.spools import Spooler
from twinlens.api.reading.tars import tar_entries
from twinlens.api.reading.zips import zip_entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from twinlens.api.reading.uploads import Entry

LIMIT = 2000
SPOOLER = Spooler(Path(gettempdir()), lambda _: None)
OPEN, ENCRYPTED, UTF8 = 1 << 3, 1 << 0, 1 << 11


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


def read_zip(
    archive: bytes, size: int = 1000, max_items: int = 10, max_picture: int = LIMIT
) -> list[Entry]:
    return list(zip_entries(pieces(archive, size), max_items, max_picture, SPOOLER))


def read_tar(
    archive: bytes, size: int = 1000, max_items: int = 10, max_picture: int = LIMIT
) -> list[Entry]:
    return list(tar_entries(pieces(archive, size), max_items, max_picture))


def told(entries: Iterable[Entry]) -> list[tuple[str, bytes | str | None]]:
    """Returns names, each with its bytes, or the code of its error, or None if passed over."""
    return [
        (
            entry.name,
            None
            if entry.is_passed_over
            else entry.error.type.rpartition(":")[2]
            if entry.error
            else entry.content,
        )
        for entry in entries
    ]


def zip_of(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Unseekable(io.RawIOBase):
    """A file that an archive can only be appended to, as a connection is."""

    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.written += content
        return len(content)


def tar_of(files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def with_checksum(block: bytearray) -> bytes:
    """Returns the block as a head of a tar archive, whatever is in it."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@dataclass(frozen=True)
class Written:
    """An entry of a ZIP archive, as it is to be written."""

    name: bytes = b"a.jpg"
    content: bytes = b"picture"
    method: int = zipfile.ZIP_STORED
    flags: int = 0
    extra: bytes = b""
    packed: bytes | None = None  # in place of the content, packed
    crc: int | None = None  # in place of the right one
    told: int | None = None  # packed size in the head of an open entry, in place of 0
    is_signed: bool = True  # its descriptor
    is_wide: bool = False  # with ZIP64 sizes
    listed: bytes | None = None  # its name in the directory

    @property
    def bytes_of_it(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method == zipfile.ZIP_DEFLATED:
            packer = zlib.compressobj(wbits=-15)
            return packer.compress(self.content) + packer.flush()
        return bz2.compress(self.content) if self.method == zipfile.ZIP_BZIP2 else self.content

    @property
    def numbers(self) -> tuple[int, int, int]:
        """CRC, packed size, size."""
        crc = zlib.crc32(self.content) if self.crc is None else self.crc
        return crc, len(self.bytes_of_it), len(self.content)

    def local(self) -> bytes:
        """Returns the entry, from its head to its descriptor."""
        numbers = (0, self.told or 0, self.told or 0) if self.flags & OPEN else self.numbers
        fixed, extra = self._fields(*numbers)
        lengths = pack("<HH", len(self.name), len(extra))
        head = b"PK\x03\x04\x2d\0" + fixed + lengths + self.name + extra
        return head + self.bytes_of_it + (self._descriptor() if self.flags & OPEN else b"")

    def central(self, offset: int) -> bytes:
        """Returns its record of the directory."""
        name = self.name if self.listed is None else self.listed
        fixed, extra = self._fields(*self.numbers, offset)
        lengths = pack("<HHHHHI", len(name), len(extra), 0, 0, 0, 0)
        place = pack("<I", 0xFFFFFFFF if self.is_wide else offset)
        return b"PK\x01\x02\x2d\0\x2d\0" + fixed + lengths + place + name + extra

    def _fields(self, crc: int, n_packed: int, n_bytes: int, *offset: int) -> tuple[bytes, bytes]:
        """Returns the fixed fields up to the sizes, and the extra field."""
        extra = self.extra
        if self.is_wide:
            wide = b"".join(pack("<Q", n) for n in (n_bytes, n_packed, *offset))
            extra += pack("<HH", 1, len(wide)) + wide
            n_packed = n_bytes = 0xFFFFFFFF
        return pack("<HHHHIII", self.flags, self.method, 0, 33, crc, n_packed, n_bytes), extra

    def _descriptor(self) -> bytes:
        numbers = pack("<IQQ" if self.is_wide else "<III", *self.numbers)
        return (b"PK\x07\x08" if self.is_signed else b"") + numbers


def written_zip(
    *entries: Written,
    listed: Sequence[int] | None = None,
    comment: bytes = b"",
    is_wide: bool = False,
) -> bytes:
    """Returns a ZIP archive.

    Args:
        entries: Its entries.
        listed: Those of its directory, by number, in this order; all by default.
        comment: Of the archive.
        is_wide: Whether a ZIP64 record has the place of the directory.
    """
    archive = b""
    offsets = []
    for entry in entries:
        offsets.append(len(archive))
        archive += entry.local()
    order = range(len(entries)) if listed is None else listed
    start = len(archive)
    archive += b"".join(entries[n].central(offsets[n]) for n in order)
    size, place = len(archive) - start, start
    if is_wide:
        wide = pack(
            "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, len(order), len(order), size, start
        )
        archive += wide + pack("<4sIQI", b"PK\x06\x07", 0, len(archive), 1)
        place = 0xFFFFFFFF
    n = len(order)
    return (
        archive + pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, n, n, size, place, len(comment)) + comment
    )
