"""The journal of a library: what was last known of each image, when its manifest is gone.

    manifests ─▶ catalogue ─▶ journal

A manifest says what was accepted, and lives as long as its job. The journal says what became of it:
an image as it was catalogued, or that it is gone. What it says last of an image counts.
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
    from collections.abc import Iterable, Iterator


class JournalLine(BaseModel):
    """What became of an image."""

    told_at: Moment = Field(description="when that was accepted which led to it")
    image: Image | None = None
    gone: str = Field("", description="the id of one that was removed")

    @property
    def image_id(self) -> str:
        return self.gone if self.image is None else self.image.id


@dataclass(frozen=True)
class Journal:
    """A file for each library, to which lines are only ever added."""

    blobs: BlobStore

    def append(self, library_id: str, lines: Iterable[JournalLine]) -> None:
        """Adds lines; when this returns, they survive a power cut.

        Raises:
            Unavailable: The disk does not take them; to be tried again.
        """
        texts = [
            line.model_dump_json(exclude_defaults=True, exclude={"image": {"links"}})
            for line in lines
        ]
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
        """Yields all lines, the oldest first. One that was cut off was never promised."""
        try:
            file = self.blobs.open(journal_key(library_id))
        except FileNotFoundError:
            return
        with file:
            for text in file:
                with contextlib.suppress(ValueError):
                    yield JournalLine.model_validate_json(text)
