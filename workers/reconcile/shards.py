"""What is noted of a library's images, in parts that fit into memory; on the disk meanwhile."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from twinlens.shared.journal import JournalLine
from twinlens.workers.reconcile.told import Word, fold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import IO

    from twinlens.workers.reconcile.told import Told

# Of a library that has no more, one part.
SMALL = 4_000
_HEX = "0123456789abcdef"
_ID = re.compile("[0-9a-f]{64}")

Note = Literal["journal", "manifest", "catalogue"]


@dataclass
class Notes:
    """What is noted of one image."""

    lines: list[JournalLine] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    is_catalogued: bool = False

    @property
    def told(self) -> Told:
        return fold(self.lines, self.words)

    def add(self, kind: str, text: str) -> None:
        """Takes in what `Shards` was given."""
        if kind == "journal":
            self.lines.append(JournalLine.model_validate_json(text))
        elif kind == "manifest":
            self.words.append(Word.model_validate_json(text))
        else:
            self.is_catalogued = True


class Shards:
    """Sorts notes by how the ids of their images begin. Its files have no names, and go with it."""

    def __init__(self, folder: Path, n_images: int) -> None:
        """Begins without notes.

        Args:
            folder: Where there is room for them.
            n_images: About how many images there are.
        """
        self._folder = folder
        n_digits = 0 if n_images <= SMALL else 2
        self.prefixes = [""] if n_digits == 0 else [a + b for a in _HEX for b in _HEX]
        self._n_digits = n_digits
        self._stack = ExitStack()
        self._files: dict[str, IO[str]] = {}

    def __enter__(self) -> Self:
        for prefix in self.prefixes:
            file = tempfile.TemporaryFile("w+", encoding="utf-8", dir=self._folder)
            self._files[prefix] = self._stack.enter_context(file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, kind: Note, image_id: str, text: str = "") -> None:
        """Adds a note; what is of no image, nothing."""
        if _ID.fullmatch(image_id):
            self._files[image_id[: self._n_digits]].write(f"{kind} {image_id} {text}\n")

    def read(self, prefix: str) -> dict[str, Notes]:
        """Returns what is noted of images whose ids begin so, by id."""
        notes: defaultdict[str, Notes] = defaultdict(Notes)
        for line in self._lines(prefix):
            kind, image_id, text = line.split(" ", 2)
            notes[image_id].add(kind, text)
        return dict(notes)

    def _lines(self, prefix: str) -> Iterator[str]:
        file = self._files[prefix]
        file.seek(0)
        yield from file
