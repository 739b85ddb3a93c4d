"""What the disk says of an image: its journal, and what was accepted since. The last counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from twinlens.shared.journal import last_of
from twinlens.shared.messages import Description, Metadata, Moment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from twinlens.shared.journal import JournalLine
    from twinlens.shared.messages import Image, ManifestHead, ManifestItem

# Of the job that says it: it goes on; it has ended, and Redis knows; Redis has lost it; it was
# cancelled, and Redis has lost it.
Standing = Literal["open", "ended", "lost", "cancelled"]


class Word(BaseModel):
    """What a manifest says of an image."""

    image_id: str
    at: Moment
    standing: Standing
    name: str | None = None
    metadata: Metadata | None = None
    is_removal: bool = False

    @property
    def description(self) -> Description:
        # Cleaned when it was accepted.
        return Description.model_construct(name=self.name, metadata=self.metadata)


def words_of(
    head: ManifestHead, items: Iterable[ManifestItem], standing: Standing
) -> Iterable[Word]:
    """Yields what a manifest says of images; of a listed picture that was not fetched, nothing."""
    if head.kind == "reindex":
        return
    is_removal = head.kind == "delete"
    for item in items:
        if item.image_id is not None and item.error is None:
            yield Word(
                image_id=item.image_id,
                # What was posted after a removal was asked for stays.
                at=head.created_at if is_removal else head.accepted_at,
                standing=standing,
                name=item.name or None,
                metadata=item.metadata,
                is_removal=is_removal,
            )


@dataclass
class Told:
    """What the disk says of an image."""

    image: Image | None = None  # as it was catalogued last, if that was before all other words
    description: Description = field(default_factory=Description)
    at: datetime | None = None
    is_wanted: bool = False  # it was accepted, or catalogued, and not removed since
    is_gone: bool = False  # it was removed
    is_open: bool = False  # a job has it in hand
    is_known: bool = False  # a job has it that Redis knows

    def hear(self, word: Word) -> None:
        """Takes in a word of a manifest, unless it was heard before the journal was written."""
        if word.standing in ("open", "ended"):
            self.is_known = True
            self.is_open |= word.standing == "open"
            return
        if self.at is not None and word.at <= self.at:
            return
        if word.standing == "cancelled":
            self._hear_cancelled(word)
            return
        self.at = word.at
        if word.is_removal:
            self.image, self.description = None, Description()
            self.is_gone, self.is_wanted = True, False
            return
        before = self.description if self.is_wanted else Description()
        self.is_wanted, self.is_gone = True, False
        self.description = before.then(word.description)

    def _hear_cancelled(self, word: Word) -> None:
        """Takes in what was perhaps done before the job was cancelled."""
        if not (self.is_wanted or word.is_removal):
            self.description = self.description.then(word.description)


def fold(lines: Iterable[JournalLine], words: Iterable[Word]) -> Told:
    """Returns what the disk says of an image.

    Args:
        lines: Those of the journal that are of it, in their order.
        words: Those of manifests, in any order; of one moment, in theirs.
    """
    told = _told_by(last_of(lines))
    for word in sorted(words, key=lambda one: one.at):
        told.hear(word)
    return told


def _told_by(line: JournalLine | None) -> Told:
    if line is None:
        return Told()
    if line.image is None:
        return Told(at=line.told_at, is_gone=True)
    said = Description.model_construct(name=line.image.name or None, metadata=line.image.metadata)
    return Told(image=line.image, description=said, at=line.told_at, is_wanted=True)
