"""Writes down what the catalogue says of images, so that it is known if Redis is emptied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.journal import Journal, JournalLine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from twinlens.shared.redis.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class Journaling:
    """Keeps the journal in step with the catalogue."""

    catalog: Catalog
    journal: Journal

    def note(self, library_id: str, image_ids: Sequence[str], told_at: datetime) -> None:
        """Notes what the catalogue says of images; of one that is not there, nothing.

        Others may change them meanwhile, and note that too: so it is looked at again afterwards,
        and whoever notes an image last has noted what is true.

        Args:
            library_id: Their library.
            image_ids: The images.
            told_at: When that was accepted which led to it.
        """
        entries = self.catalog.find(library_id, image_ids)
        while entries:
            lines = [JournalLine(told_at=told_at, image=one.image) for one in entries.values()]
            self.journal.append(library_id, lines)
            after = self.catalog.find(library_id, list(entries))
            entries = {i: one for i, one in after.items() if one.image != entries[i].image}
