"""What every kind of archive may hold: how many entries, of which names, and how many bytes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from twinlens.api.reading.uploads import Entry, refused_entry
from twinlens.shared.errors import BadArchive, PayloadTooLarge
from twinlens.shared.names import clean_text, kind_of_other

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Pictures hardly pack; a flat BMP does by some hundred. An archive that is far past it is a bomb.
MAX_RATIO = 200
RATIO_GRACE_BYTES = 64 * 1024 * 1024
# Folders, and files that are no pictures: as many as there may be pictures, and so many more.
MORE_OTHERS = 10_000


class Allowance:
    """What an archive may still give.

    Every byte that comes out of it counts, also where it is too large, damaged or passed over.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._n_packed = 0
        self._n_unpacked = 0

    def incoming(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """Counts what goes in."""
        for piece in body:
            self._n_packed += len(piece)
            yield piece

    def outgoing(self, unpacked: Iterable[bytes]) -> Iterator[bytes]:
        """Counts what comes out.

        Raises:
            BadArchive: It is far more than pictures unpack to.
        """
        for piece in unpacked:
            self._n_unpacked += len(piece)
            if self._n_unpacked > MAX_RATIO * self._n_packed + RATIO_GRACE_BYTES:
                raise BadArchive(f"The archive unpacks to more than {MAX_RATIO} times its size.")
            yield piece

    def admit(self, entries: Iterable[Entry | None]) -> Iterator[Entry]:
        """Counts entries, and leaves out folders, which are None.

        Raises:
            PayloadTooLarge: There are too many.
        """
        n_items = n_others = 0
        for entry in entries:
            if entry is None or entry.is_passed_over:
                n_others += 1
            else:
                n_items += 1
            if n_items > self._max_items:
                raise PayloadTooLarge(f"The archive has more than {self._max_items} pictures.")
            if n_others > self._max_items + MORE_OTHERS:
                raise PayloadTooLarge(
                    f"The archive has more than {self._max_items + MORE_OTHERS} folders and files"
                    " that are no pictures."
                )
            if entry is not None:
                yield entry


def entry_by_name(name: str, *, is_empty: bool = False) -> Entry | None:
    """Returns an entry whose name says enough: it is refused, or passed over. Else None."""
    if leads_out(name):
        return refused_entry(name, BadArchive("The entry's name leads out of the archive."))
    return Entry(name, is_passed_over=True) if _is_other(name, is_empty=is_empty) else None


def leads_out(name: str) -> bool:
    """Tells if an entry's name would leave the folder that it is unpacked in."""
    return ".." in re.split(r"[/\\]", name)


def _is_other(name: str, *, is_empty: bool) -> bool:
    kind = kind_of_other(name)
    # Empty files are told as such, and a name that hides something says nothing for certain; but
    # those that systems leave behind are often like that: `.nomedia`, and macOS' `Icon\r`.
    is_plain = not is_empty and clean_text(name) == name
    return kind == "system file" or (kind is not None and is_plain)
