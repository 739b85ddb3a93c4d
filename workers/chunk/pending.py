"""The pictures of a chunk, and the outcome of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twinlens.shared.blobs import image_key
from twinlens.shared.messages import Description, Item
from twinlens.workers.library.amendments import Amendment

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence
    from datetime import datetime

    from twinlens.models.session import Pixels
    from twinlens.shared.errors import Problem
    from twinlens.shared.messages import CatalogEntry, Image, ManifestHead, ManifestItem, Outcome


@dataclass
class Pending:
    """A picture of a chunk, to be embedded."""

    description: Description
    image_id: str
    library: str
    path: str  # where its bytes are
    tag: str  # job:chunk:index, so that a repeated chunk recognises its own work
    known: CatalogEntry | None  # if it is catalogued, with some embeddings missing
    collections: set[str]  # those that have its embeddings
    read_as: str  # its record as it was read or written last; '' where there is none
    added_at: datetime | None = None  # if it was catalogued before, and its record lost
    image: Image | None = None
    pixels: list[Pixels] = field(default_factory=list)  # one per model
    error: Problem | None = None

    @property
    def is_changed(self) -> bool:
        """Whether it is catalogued under another name or with other metadata."""
        return self.known is not None and self.description.changes(self.known.image)

    @property
    def outcome(self) -> Outcome:
        return "updated" if self.is_changed else "succeeded"


class Outcomes:
    """Works out which pictures of a chunk must be embedded, and what became of each.

    Where pictures of a chunk are the same, the first is the one that is done, and the name and the
    metadata of the last are kept.
    """

    def __init__(
        self,
        head: ManifestHead,
        entries: Sequence[ManifestItem],
        known: Mapping[str, CatalogEntry],
        wanted: set[str],
        *,
        is_again: bool = False,
    ) -> None:
        """Works out which pictures must be embedded.

        Args:
            head: Head of the chunk's manifest.
            entries: Its pictures.
            known: Catalogue entries of those that have one, by image id.
            wanted: The collections that each picture needs an embedding in.
            is_again: Whether the chunk may have written over rows that others have catalogued.
        """
        self._entries = entries
        self._is_restoring = head.kind == "reconcile"
        self._decided: dict[int, Item] = {}
        self._places: dict[int, str] = {}
        self._pending: dict[str, Pending] = {}
        self._amendments: dict[str, Amendment] = {}
        descriptions = _descriptions(entries, is_reindex=head.kind == "reindex")
        for index, entry in enumerate(entries):
            tag = f"{head.job_id}:{head.chunk}:{index}"
            image_id = entry.image_id
            if entry.error is not None or image_id is None:
                self._decided[index] = failed(entry, entry.error)
                continue
            there = known.get(image_id)
            description = self._said(descriptions[image_id], is_there=there is not None)
            if there is None and head.kind == "reindex":
                # It has been removed since the job was planned.
                self._decided[index] = _done(entry, "skipped")
            elif there is not None and wanted <= there.collections:
                self._decided[index] = _done(entry, self._outcome(there, description, tag))
                if is_again and there.added_by != tag:
                    told = Amendment(Description(), collections=there.collections)
                    self._amendments.setdefault(image_id, told)
            else:
                self._places[index] = image_id
                self._pending.setdefault(
                    image_id,
                    Pending(
                        description,
                        image_id,
                        head.library,
                        image_key(head.library_id, image_id),
                        tag,
                        there,
                        set(there.collections) if there else set(),
                        there.read_as if there else "",
                        entry.added_at,
                    ),
                )

    @property
    def pending(self) -> list[Pending]:
        """The pictures that must be embedded, each once."""
        return list(self._pending.values())

    def amendments(self, not_written: Container[str] = ()) -> dict[str, Amendment]:
        """Returns what is to be changed of images that are there, by image id.

        That may be only their rows: of what was embedded for some collections and said anew, the
        others tell what was said before.

        Args:
            not_written: Those that were embedded, but that somebody else has catalogued, changed
                or removed meanwhile.
        """
        amendments = dict(self._amendments)
        for one in self.pending:
            if one.error is None and (one.image_id in not_written or one.is_changed):
                said = self._said(one.description, is_there=True)
                amendments[one.image_id] = Amendment(said, one.tag, one.collections)
        return amendments

    def withdrawals(self) -> dict[str, Amendment]:
        """Returns what brings the rows that were written back to what the catalogue has of them."""
        return {
            one.image_id: Amendment(Description(), collections=one.collections)
            for one in self.pending
            if one.collections
        }

    def items(self) -> list[Item]:
        """Returns the outcome of each picture, in the order of the manifest."""
        seen: set[str] = set()
        for index, image_id in self._places.items():
            entry, one = self._entries[index], self._pending[image_id]
            if one.error is not None:
                self._decided[index] = failed(entry, one.error)
            else:
                self._decided[index] = _done(entry, "skipped" if image_id in seen else one.outcome)
            seen.add(image_id)
        return [self._decided[index] for index in range(len(self._entries))]

    def _said(self, description: Description, *, is_there: bool) -> Description:
        """Returns what a chunk says of a picture; to restore one that is there again, nothing."""
        return Description() if is_there and self._is_restoring else description

    def _outcome(self, there: CatalogEntry, description: Description, tag: str) -> Outcome:
        """Returns what becomes of a picture that has all of its embeddings."""
        if there.added_by == tag:
            return "succeeded"
        if there.changed_by == tag:
            # Whoever wrote that may have been stopped before it was in the journal.
            self._amendments[there.image.id] = Amendment(Description(), tag)
            return "updated"
        if there.image.id in self._amendments or not description.changes(there.image):
            return "skipped"
        self._amendments[there.image.id] = Amendment(description, tag)
        return "updated"


def failed(entry: ManifestItem, error: Problem | None) -> Item:
    """Returns the outcome of a picture that failed."""
    return Item(name=entry.name, image_id=entry.image_id, outcome="failed", error=error)


def _descriptions(entries: Sequence[ManifestItem], *, is_reindex: bool) -> dict[str, Description]:
    """Returns what a chunk says of each picture; of those that are embedded anew, nothing."""
    descriptions: dict[str, Description] = {}
    for entry in entries:
        if entry.image_id is not None and entry.error is None:
            said = Description() if is_reindex else entry.description
            before = descriptions.get(entry.image_id)
            descriptions[entry.image_id] = said if before is None else before.then(said)
    return descriptions


def _done(entry: ManifestItem, outcome: Outcome) -> Item:
    return Item(name=entry.name, image_id=entry.image_id, outcome=outcome)
