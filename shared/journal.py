"""The journal of a library: what was last known of each image, when its manifest is gone.

    manifests ─▶ catalogue ─▶ journal

A manifest says what was accepted, and lives as long as its job. The journal says what became of it:
an image as it was catalogued, or that it is gone. What it says last of an image counts; so it is
folded when it has become twice as long, down to that.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from twinlens.shared.blobs import BlobStore, journal_key
from twinlens.shared.errors import Unavailable
from twinlens.shared.messages import Image, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO


class JournalLine(BaseModel):
    """What became of an image."""

    told_at: Moment = Field(description="when that was accepted which led to it")
    image: Image | None = None
    gone: str = Field("", description="the id of one that was removed")

    @property
    def image_id(self) -> str:
        return self.gone if self.image is None else self.image.id


def last_of(lines: Iterable[JournalLine]) -> JournalLine | None:
    """Returns what the lines of one image say, in their order; None if there are none.

    What is said later is in a later line. But a removal counts from when it was asked for, however
    late it is noted: what was accepted since is not meant, and what was accepted before is over.
    """
    last: JournalLine | None = None
    for line in lines:
        if last is None or line.told_at >= last.told_at:
            last = line
        elif last.image is not None and line.image is not None:
            last = line.model_copy(update={"told_at": last.told_at})
    return last


class _Head(BaseModel):
    """The first line of a journal that was folded."""

    folded_bytes: int


# A shorter journal is not folded.
LEAST_BYTES = 256_000
# Wide enough for any number of bytes, so that it can be written when they are known.
_HEAD = '{{"folded_bytes":{:20}}}\n'


@dataclass(frozen=True)
class Journal:
    """A file for each library, to which lines are added."""

    blobs: BlobStore

    def append(self, library_id: str, lines: Iterable[JournalLine]) -> None:
        """Adds lines; when this returns, they survive a power cut.

        Raises:
            Unavailable: The disk does not take them; to be tried again.
        """
        texts = [_text_of(line) for line in lines]
        if not texts:
            return
        try:
            self.blobs.append(journal_key(library_id), texts)
        except OSError as error:
            raise Unavailable(f"The journal cannot be written: {error.strerror}") from error

    def remove(self, library_id: str, image_ids: Iterable[str], told_at: Moment) -> None:
        """Notes that images are gone.

        Args:
            library_id: Their library.
            image_ids: The images.
            told_at: When their removal was asked for. What was accepted since is not meant.

        Raises:
            Unavailable: As of `append`.
        """
        self.append(library_id, [JournalLine(told_at=told_at, gone=one) for one in image_ids])

    def read(self, library_id: str) -> Iterator[JournalLine]:
        """Yields all lines, the oldest first."""
        try:
            file = self.blobs.open(journal_key(library_id))
        except FileNotFoundError:
            return
        with file:
            yield from _lines_of(file)

    def is_long(self, library_id: str) -> bool:
        """Tells if a journal is to be folded."""
        n_bytes = self.blobs.size(journal_key(library_id))
        return n_bytes > LEAST_BYTES and n_bytes > 2 * self._folded_bytes(library_id)

    def _folded_bytes(self, library_id: str) -> int:
        try:
            with self.blobs.open(journal_key(library_id)) as file:
                return _Head.model_validate_json(file.readline()).folded_bytes
        except (FileNotFoundError, ValueError):
            return 0

    def fold(
        self, library_id: str, fold: Callable[[Iterator[JournalLine]], Iterable[JournalLine]]
    ) -> None:
        """Writes a journal anew; what is added meanwhile comes behind it.

        Args:
            library_id: The library.
            fold: Returns lines that say last what the given lines do.

        Raises:
            OSError: The disk does not take it; the journal is as it was.
        """

        def write(texts: Iterator[bytes], file: BinaryIO) -> None:
            file.write(_HEAD.format(0).encode())
            file.writelines(_text_of(line).encode() + b"\n" for line in fold(_lines_of(texts)))
            n_bytes = file.tell()
            file.seek(0)
            file.write(_HEAD.format(n_bytes).encode())

        with contextlib.suppress(FileNotFoundError):
            self.blobs.rewrite(journal_key(library_id), write)


def _text_of(line: JournalLine) -> str:
    return line.model_dump_json(exclude_defaults=True, exclude={"image": {"links"}})


def _lines_of(texts: Iterable[bytes]) -> Iterator[JournalLine]:
    """Yields the lines that can be read: one that was cut off was never promised."""
    for text in texts:
        with contextlib.suppress(ValueError):
            yield JournalLine.model_validate_json(text)
