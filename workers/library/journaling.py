"""Writes down what the catalogue says of images, so that it is known if Redis is emptied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.journal import Journal, JournalLine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from twinlens.shared.redis.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class Journaling:
    """Keeps the journal in step with the catalogue."""

    catalog: Catalog
    journal: Journal

    def note(self, library_id: str, told_at: Mapping[str, datetime]) -> None:
        """Notes what the catalogue says of images; of one that is not there, nothing.

        Others may change them meanwhile, and note that too: so it is looked at again afterwards,
        and whoever notes an image last has noted what is true.

        Args:
            library_id: Their library.
            told_at: The images' ids, and when that was accepted which led to it.
        """
        entries = self.catalog.find(library_id, list(told_at))
        while entries:
            self.journal.append(
                library_id,
                [JournalLine(told_at=told_at[i], image=one.image) for i, one in entries.items()],
            )
            after = self.catalog.find(library_id, list(entries))
            entries = {i: one for i, one in after.items() if one.image != entries[i].image}
