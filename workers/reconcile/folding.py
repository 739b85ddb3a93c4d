"""Folds journals: of each image, what is said of it last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from twinlens.shared.journal import last_of
from twinlens.shared.manifests import read_heads
from twinlens.shared.messages import now
from twinlens.workers.library.each import look_after_each
from twinlens.workers.reconcile.shards import Shards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from twinlens.shared.journal import Journal, JournalLine
    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.settings import Settings

# For so long it is kept that an image is gone, since who notes an image may have read of it before.
REMEMBERED_S = 300


@dataclass(frozen=True, kw_only=True)
class Folding:
    """Keeps journals as short as libraries are."""

    settings: Settings
    catalog: Catalog
    journal: Journal

    def tend(self) -> None:
        """Folds the journals that have become long.

        Raises:
            OSError: The disk does not take it.
        """
        look_after_each(self.catalog, self._fold)

    def _fold(self, library: Library) -> None:
        if self.journal.is_long(library.id):
            self.journal.fold(library.id, lambda lines: self._folded(library.id, lines))

    def _folded(self, library_id: str, lines: Iterator[JournalLine]) -> Iterator[JournalLine]:
        since = self._needed_since(library_id)
        with Shards(self.settings.data_dir, self.catalog.count(library_id)) as shards:
            for line in lines:
                shards.add("journal", line.image_id, line.model_dump_json())
            for prefix in shards.prefixes:
                for notes in shards.read(prefix).values():
                    last = last_of(notes.lines)
                    if last is not None and (last.image is not None or last.told_at >= since):
                        yield last

    def _needed_since(self, library_id: str) -> datetime:
        """Returns when the oldest removal was asked for that voids what a manifest says."""
        heads = read_heads(self.journal.blobs)
        begun = [head.created_at for head in heads if head.library_id == library_id]
        return min([now() - timedelta(seconds=REMEMBERED_S), *begun])
