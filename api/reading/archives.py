"""ZIP archives as streams of entries: memory does not grow with the archive.

An archive is read front to back, as it arrives, so the central directory at its end only serves
to check that the end is there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stream_unzip import IntegrityError, PasswordError, stream_unzip

from twinlens.api.reading.uploads import Entry, picture_entry, refused_entry
from twinlens.shared.errors import BadArchive, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# An entry that inflates to this many times the limit of a picture is a bomb, not a picture.
MAX_OVERSIZE = 16
# Pictures hardly compress; a flat BMP does, about a hundredfold. An archive far beyond is a bomb.
MAX_RATIO = 200
RATIO_GRACE_BYTES = 64 * 1024 * 1024
# The end record has 22 bytes, then a comment of up to 65,535.
_END_RECORD = b"PK\x05\x06"
_END_BYTES = 22
_TAIL_BYTES = _END_BYTES + 65_535
# From this many entries on, ZIP64 has the number; some writers put it here modulo 65,536.
_MANY = 0xFFFF


def zip_entries(body: Iterable[bytes], max_items: int, max_picture: int) -> Iterator[Entry]:
    """Yields the pictures of a ZIP archive, in the order of the archive.

    A bad entry becomes a refused one, and the rest is still read; if the rest cannot be read, the
    archive is refused.

    Raises:
        BadArchive: It is not a ZIP archive, is cut short or encrypted, or holds a bomb.
        PayloadTooLarge: It has too many entries.
    """
    tail = _Tail(body)
    n_entries = n_items = n_unpacked = 0
    try:
        for raw_name, _, chunks in stream_unzip(tail, chunk_size=65_536):
            n_entries += 1
            name = decode_name(raw_name)
            entry = _read_entry(name, chunks, max_picture)
            n_unpacked += len(entry.content)
            check_ratio(n_unpacked, tail.n_bytes)
            if is_noise(name):
                continue
            n_items += 1
            if n_items > max_items:
                raise PayloadTooLarge(f"The archive has more than {max_items} pictures.")
            yield entry
    except PasswordError:
        raise BadArchive("The archive is encrypted.") from None
    except ValueError as error:  # what stream_unzip raises, and its inflater
        raise BadArchive(f"The archive cannot be read: {_reason(error)}.") from None
    if not tail.has_end(n_entries):
        raise BadArchive("The archive is cut short: its end record is missing.")


def decode_name(raw: bytes) -> str:
    """Returns an entry's name: UTF-8 if it is valid, else code page 437, ZIP's first encoding."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def is_noise(name: str) -> bool:
    """Returns whether an entry is a folder, or one that macOS adds to an archive."""
    parts = name.split("/")
    is_of_macos = parts[-1] == ".DS_Store" or parts[-1].startswith("._")
    return name.endswith("/") or parts[0] == "__MACOSX" or is_of_macos


def is_unsafe(name: str) -> bool:
    """Returns whether an entry's name leads outside the folder that it is unpacked in."""
    return name.startswith(("/", "\\")) or bool(
        re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name)
    )


def _read_entry(name: str, chunks: Iterable[bytes], max_picture: int) -> Entry:
    try:
        content = read_bounded(chunks, max_picture)
    except IntegrityError:
        # The stream is past the entry, so the rest can be read.
        return refused_entry(name, BadArchive("The entry's bytes are damaged (its CRC differs)."))
    if is_unsafe(name):
        return refused_entry(name, BadArchive("The entry's name leads outside the archive."))
    return picture_entry(name, content, max_picture)


def read_bounded(chunks: Iterable[bytes], max_picture: int) -> bytes | None:
    """Reads an entry; returns None, and keeps nothing, if it is over the limit of a picture.

    Raises:
        BadArchive: The entry is far over the limit.
    """
    kept = bytearray()
    n_bytes = 0
    for chunk in chunks:
        n_bytes += len(chunk)
        if n_bytes > MAX_OVERSIZE * max_picture:
            raise BadArchive(
                f"An entry has more than {MAX_OVERSIZE} times the limit of {max_picture} bytes."
            )
        if n_bytes <= max_picture:
            kept += chunk
    return bytes(kept) if n_bytes <= max_picture else None


def check_ratio(n_unpacked: int, n_packed: int) -> None:
    """Refuses an archive that unpacks to far more than pictures do.

    Args:
        n_unpacked: Bytes unpacked so far.
        n_packed: Bytes of the archive read so far.

    Raises:
        BadArchive: It unpacks to far more.
    """
    if n_unpacked > MAX_RATIO * n_packed + RATIO_GRACE_BYTES:
        raise BadArchive(f"The archive unpacks to more than {MAX_RATIO} times its size.")


def _reason(error: ValueError) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", type(error).__name__.removesuffix("Error"))
    return words.lower()


class _Tail:
    """Passes a stream on, counts its bytes, and remembers the last ones."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        self._last = b""
        self.n_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._body:
            self.n_bytes += len(chunk)
            self._last = (self._last + chunk)[-_TAIL_BYTES:]
            yield chunk

    def has_end(self, n_entries: int) -> bool:
        """Returns whether there is an end record for this many entries; pictures may hold one."""
        place = self._last.rfind(_END_RECORD)
        if place < 0 or len(self._last) - place < _END_BYTES:
            return False
        n_told = int.from_bytes(self._last[place + 10 : place + 12], "little")
        return n_told in (min(n_entries, _MANY), n_entries % (_MANY + 1))
