"""Which metadata is of which picture, where an annotation file names pictures by their paths.

Such a file was mostly made elsewhere: its paths are absolute, or begin at another folder, or have
the separators of Windows. So the longest common end of both paths counts, in Unicode's normal form
NFC. Where several fit equally well, none is taken, and that is told.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from twinlens.cli.words import counted
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import PurePath

    from twinlens.shared.messages import Metadata

MAX_EXAMPLES = 3


class _Fit(NamedTuple):
    """How well a path fits: all of the name that the file has, or so many of its last parts."""

    is_whole: bool
    n_parts: int


@dataclass(slots=True, eq=False)
class _Entry:
    """A picture, as the file names it."""

    name: str
    metadata: Metadata
    best: _Fit | None = None  # of the pictures that were noted
    n_best: int = 0
    is_taken: bool = False


class Annotations:
    """Metadata of pictures by the paths that a file has for them.

    Once all pictures are noted, a picture that fits less well than another gets nothing, and
    neither do several that fit equally well.
    """

    def __init__(self, named: Iterable[tuple[str, Metadata]], n_stray: int = 0) -> None:
        """Keeps the metadata.

        Args:
            named: Paths and metadata.
            n_stray: How many annotations are of images that the file does not list.
        """
        self._entries: list[_Entry] = []
        # By the ends of their paths; None where several have the same.
        self._whole: dict[str, _Entry | None] = {}
        self._ends: dict[str, _Entry | None] = {}
        self._n_stray = n_stray
        self._n_with = self._n_without = self._n_unclear = self._n_moved = 0
        self._unclear: list[str] = []
        self._moved = ""
        for name, metadata in named:
            self._add(_Entry(name, metadata))

    def _add(self, entry: _Entry) -> None:
        whole, *ends = _ends_of(entry.name)
        same = self._whole.get(whole)
        if same is not None and same.metadata == entry.metadata:
            return
        self._entries.append(entry)
        self._whole[whole] = None if whole in self._whole else entry
        for end in ends:
            self._ends[end] = None if end in self._ends else entry

    @property
    def are_of_some(self) -> bool:
        """Whether a picture that was noted is named."""
        return any(entry.best for entry in self._entries)

    def note(self, path: PurePath) -> None:
        """Remembers how well a picture fits."""
        entry, fit = self._look_up(path)
        if entry is None or fit is None:
            return
        if entry.best is None or fit > entry.best:
            entry.best, entry.n_best = fit, 0
        entry.n_best += fit == entry.best

    def of(self, path: PurePath) -> Metadata:
        """Returns a picture's metadata, which is empty where the file does not name it."""
        entry, _ = self._entry_of(path)
        return entry.metadata if entry else {}

    def take(self, path: PurePath) -> Metadata:
        """Returns a picture's metadata, and counts what becomes of it."""
        entry, fit = self._entry_of(path)
        if fit is None:
            self._n_without += 1
        elif entry is None:
            self._n_unclear += 1
            if len(self._unclear) < MAX_EXAMPLES:
                self._unclear.append(printable(str(path)))
        else:
            entry.is_taken = True
            self._n_with += 1
            if not fit.is_whole:
                self._n_moved += 1
                self._moved = self._moved or f"{printable(entry.name)} for {printable(str(path))}"
        return entry.metadata if entry else {}

    def __str__(self) -> str:
        n_unused = sum(not entry.is_taken for entry in self._entries)
        told = [
            f"annotations: {counted(self._n_with, 'picture')} with, {self._n_without:,} without"
        ]
        if n_unused:
            told.append(f"{counted(n_unused, 'image')} of the file without a picture here")
        if self._n_stray:
            told.append(f"{counted(self._n_stray, 'annotation')} of images that are not listed")
        if self._n_moved:
            told.append(f"{self._n_moved:,} by the end of the path alone, as {self._moved}")
        if self._n_unclear:
            more = ", …" if self._n_unclear > MAX_EXAMPLES else ""
            told.append(
                f"{counted(self._n_unclear, 'picture')} left without, as several images of the"
                f" file, or several pictures, fit equally well: {', '.join(self._unclear)}{more}"
            )
        return "\n  ".join(told)

    def _entry_of(self, path: PurePath) -> tuple[_Entry | None, _Fit | None]:
        """Returns what is a picture's, and how well it fits; a fit alone where that is unclear."""
        entry, fit = self._look_up(path)
        if entry is None or entry.best is None:
            return entry, fit
        if entry.best != fit:
            return None, None  # it is another picture's
        return (entry if entry.n_best == 1 else None), fit

    def _look_up(self, path: PurePath) -> tuple[_Entry | None, _Fit | None]:
        """Returns what fits a path best, and how well; a fit alone where several do."""
        # With the folders above, which the file may name too.
        ends = _ends_of(os.path.abspath(path))  # noqa: PTH100 (resolves no links)
        for place, end in enumerate(ends):
            for index in (self._whole, self._ends):
                if end in index:
                    return index[end], _Fit(index is self._whole, len(ends) - place)
        return None, None


def _ends_of(path: str) -> list[str]:
    """Returns a path as it is compared, and what is left of it without its first folders."""
    parts = re.split(r"[/\\]", unicodedata.normalize("NFC", path))
    parts = [part for part in parts if part not in ("", ".", "..")] or [""]
    return ["/".join(parts[start:]) for start in range(len(parts))]
