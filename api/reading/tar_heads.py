"""The heads of tar archives: what the blocks before a member's bytes say of it."""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tarfile import TarInfo

    from twinlens.api.reading.byte_streams import ByteStream

BLOCK_BYTES = tarfile.BLOCKSIZE
# A name, or the attributes of a file: they are read whole.
MAX_HEADER_BYTES = 1024 * 1024
# No system opens a longer path. To look through names of a megabyte would take 0.1 s for each.
MAX_PATH_CHARS = 4096
# Long names, long links and attributes before one member; real ones have one of each.
MAX_HEADERS = 8

_FOLDERS = {tarfile.DIRTYPE, b"D", b"V"}  # and GNU's lists of folders, and labels of volumes
_WITHOUT_BYTES = {
    tarfile.DIRTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
}
# The part of a file that began on another volume.
_CONTINUED = b"M"

_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n]+)=")
_SIZE = re.compile("[0-9]{1,19}")
_SPARSE = "GNU.sparse."
# Attributes that are looked at; others are not kept.
_KEYS = {"path", "linkpath", "size"} | {
    _SPARSE + key for key in ("name", "size", "realsize", "major", "numblocks", "map")
}
# In the head of an old sparse member, and in each block behind it: whether a block follows.
_GOES_ON, _GOES_ON_AFTER = 482, 504


class Member(NamedTuple):
    """A member of an archive."""

    name: str
    kind: bytes
    n_bytes: int  # that it has in the archive
    link: str
    is_sparse: bool

    @property
    def is_folder(self) -> bool:
        return self.kind in _FOLDERS or self.name.endswith("/")

    @property
    def is_hard_link(self) -> bool:
        return self.kind == tarfile.LNKTYPE

    @property
    def is_file(self) -> bool:
        """Whether its bytes are those of a file; unknown kinds count as files (POSIX)."""
        return self.kind not in _WITHOUT_BYTES | {_CONTINUED}


def take_member(stream: ByteStream, shared: dict[str, str]) -> Member:
    """Reads what is before a member's bytes.

    Args:
        stream: The archive, at the first block of it.
        shared: Attributes of all members from here on; those that come are put into it.

    Raises:
        CutShort: The archive ends too early.
        tarfile.TarError: It is no head, or there are too many for one member.
    """
    own: dict[str, str] = {}
    for _ in range(MAX_HEADERS + 1):
        block = stream.take(BLOCK_BYTES)
        head = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if head.size < 0:
            raise tarfile.ReadError("a size is negative")
        if head.type == tarfile.GNUTYPE_LONGNAME:
            own["path"] = _text(_take_header(stream, head.size).partition(b"\0")[0])
        elif head.type == tarfile.GNUTYPE_LONGLINK:
            own["linkpath"] = _text(_take_header(stream, head.size).partition(b"\0")[0])
        elif head.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
            own |= _attributes(_take_header(stream, head.size))
        elif head.type == tarfile.XGLTYPE:
            shared.update(_attributes(_take_header(stream, head.size)))
        else:
            _skip_old_map(stream, head, block)
            return _member(head, shared | own)
    raise tarfile.ReadError("too many headers are before one member")


def _member(head: TarInfo, attributes: dict[str, str]) -> Member:
    size = attributes.get("size", str(head.size))
    if not _SIZE.fullmatch(size):
        raise tarfile.ReadError("a size is no number")
    named = (attributes.get(key) for key in (f"{_SPARSE}name", "path"))
    return Member(
        name=next(filter(None, named), head.name)[-MAX_PATH_CHARS:],
        kind=head.type,
        n_bytes=0 if head.type in _WITHOUT_BYTES else int(size),
        link=attributes.get("linkpath", head.linkname)[-MAX_PATH_CHARS:],
        is_sparse=head.type == tarfile.GNUTYPE_SPARSE
        or any(key.startswith(_SPARSE) for key in attributes),
    )


def _take_header(stream: ByteStream, n_bytes: int) -> bytes:
    if n_bytes > MAX_HEADER_BYTES:
        raise tarfile.ReadError("a header is too long")
    return stream.take(n_bytes + -n_bytes % BLOCK_BYTES)[:n_bytes]


def _attributes(header: bytes) -> dict[str, str]:
    r"""Reads records of `LENGTH KEY=VALUE\n`; some writers fill up with zeros."""
    attributes = {}
    place = 0
    while place < len(header) and header[place]:
        match = _RECORD.match(header, place)
        end = place + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(header) or header[end - 1 : end] != b"\n":
            raise tarfile.ReadError("an attribute cannot be read")
        key = _text(match[2])
        if key in _KEYS:
            attributes[key] = _text(header[match.end() : end - 1])
        place = end
    return attributes


def _skip_old_map(stream: ByteStream, head: TarInfo, block: bytes) -> None:
    goes_on = head.type == tarfile.GNUTYPE_SPARSE and block[_GOES_ON]
    while goes_on:
        goes_on = stream.take(BLOCK_BYTES)[_GOES_ON_AFTER]


def _text(raw: bytes) -> str:
    # What is not UTF-8 is marked where names are cleaned.
    return raw.decode(errors="surrogateescape")
