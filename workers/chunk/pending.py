"""Pictures of a chunk, and what comes of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from twinlens.shared.messages import Item

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twinlens.models.session import Pixels
    from twinlens.shared.errors import Problem
    from twinlens.shared.messages import CatalogEntry, Image, ManifestHead, ManifestItem


@dataclass
class Pending:
    """A picture of the chunk that is to be embedded."""

    item: ManifestItem
    image_id: str
    library: str
    tag: str  # job:chunk:index, so that a repeated chunk knows its own work
    known: CatalogEntry | None  # as catalogued by then, some of its embeddings missing
    collections: set[str]  # those that have its embeddings
    image: Image | None = None
    pixels: list[Pixels] = field(default_factory=list)  # one a model
    error: Problem | None = None


class Outcomes:
    """Sorts out which pictures of a chunk are to be embedded, and says what became of each."""

    def __init__(
        self,
        head: ManifestHead,
        entries: Sequence[ManifestItem],
        known: Mapping[str, CatalogEntry],
        wanted: set[str],
    ) -> None:
        """Sorts them out.

        Args:
            head: Of the chunk's manifest.
            entries: Its pictures.
            known: Those that are catalogued, by image id.
            wanted: The collections that are to have each picture's embeddings.
        """
        self._entries = entries
        self._decided: dict[int, Item] = {}
        self._places: dict[int, str] = {}
        self._pending: dict[str, Pending] = {}
        for index, entry in enumerate(entries):
            tag = f"{head.job_id}:{head.chunk}:{index}"
            there = known.get(entry.image_id or "")
            if entry.error is not None or entry.image_id is None:
                self._decided[index] = failed(entry, entry.error)
            elif there is None and head.kind == "reindex":
                # It was removed since the job was planned.
                self._decided[index] = _done(entry, "skipped")
            elif there is not None and wanted <= there.collections:
                is_own = there.added_by == tag
                self._decided[index] = _done(entry, "succeeded" if is_own else "skipped")
            else:
                self._places[index] = entry.image_id
                has = set(there.collections) if there else set()
                self._pending.setdefault(
                    entry.image_id, Pending(entry, entry.image_id, head.library, tag, there, has)
                )

    @property
    def pending(self) -> list[Pending]:
        """The pictures that are to be embedded, each once."""
        return list(self._pending.values())

    def items(self) -> list[Item]:
        """Returns the outcome of each picture, in the order of the manifest."""
        seen: set[str] = set()
        for index, image_id in self._places.items():
            entry, one = self._entries[index], self._pending[image_id]
            if one.error is not None:
                self._decided[index] = failed(entry, one.error)
            else:
                self._decided[index] = _done(entry, "skipped" if image_id in seen else "succeeded")
            seen.add(image_id)
        return [self._decided[index] for index in range(len(self._entries))]


def failed(entry: ManifestItem, error: Problem | None) -> Item:
    """Returns the outcome of a picture that failed."""
    return Item(name=entry.name, image_id=entry.image_id, outcome="failed", error=error)


def _done(entry: ManifestItem, outcome: Literal["succeeded", "skipped"]) -> Item:
    return Item(name=entry.name, image_id=entry.image_id, outcome=outcome)
