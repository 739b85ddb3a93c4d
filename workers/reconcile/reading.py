"""Reads what is noted of a library: its journal, its manifests, and which images are catalogued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.blobs import cancelled_key
from twinlens.shared.manifests import read_heads, read_manifests
from twinlens.workers.reconcile.told import words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.journal import Journal
    from twinlens.shared.messages import ManifestItem
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Jobs
    from twinlens.workers.reconcile.shards import Shards
    from twinlens.workers.reconcile.told import Standing


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Reads, and changes nothing."""

    jobs: Jobs
    catalog: Catalog
    blobs: BlobStore
    journal: Journal

    def standings(self, library_id: str, since: datetime) -> dict[str, Standing]:
        """Returns how the jobs stand that have manifests of a library, by their ids.

        Args:
            library_id: The library.
            since: What was accepted later is left alone: its job may not be recorded yet.
        """
        return {
            head.job_id: "open" if head.accepted_at >= since else self._standing(head.job_id)
            for head in read_heads(self.blobs)
            if head.library_id == library_id
        }

    def _standing(self, job_id: str) -> Standing:
        status = self.jobs.status(job_id)
        if status is None:
            is_cancelled = self.blobs.touched_at(cancelled_key(job_id)) is not None
            return "cancelled" if is_cancelled else "lost"
        return "open" if status in ("queued", "running") else "ended"

    def read_into(self, shards: Shards, library_id: str, standings: Mapping[str, Standing]) -> None:
        """Sorts all that is noted of a library's images."""
        for line in self.journal.read(library_id):
            shards.add("journal", line.image_id, line.model_dump_json())
        for job_id, standing in standings.items():
            for head, items in read_manifests(self.blobs, job_id):
                for word in words_of(head, items, standing):
                    shards.add("manifest", word.image_id, word.model_dump_json())
        for image_id in self.catalog.all_ids(library_id):
            shards.add("catalogue", image_id)

    def unfetched(self, standings: Mapping[str, Standing]) -> Iterator[ManifestItem]:
        """Yields the listed pictures of lost jobs that no worker has fetched."""
        for job_id, standing in standings.items():
            if standing == "lost":
                for _, items in read_manifests(self.blobs, job_id):
                    yield from (
                        item for item in items if item.uri and not (item.image_id or item.error)
                    )
