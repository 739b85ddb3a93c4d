"""Compares what the stores say of a library, and brings back what one of them has lost.

journal, manifests, catalogue ─▶ shards ─▶ compared with blobs and Milvus ─▶ repaired ─▶ chunks

What only has to be written again is repaired at once. Pictures that must be embedded become chunks
of the job, as those of an upload.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from twinlens.shared.answers import Difference, Reconciliation
from twinlens.shared.queue import DAY_S
from twinlens.shared.redis import keys
from twinlens.shared.redis.catalog import READ_ENTRIES
from twinlens.shared.redis.jobs import StoredResult
from twinlens.workers.reconcile.comparing import Comparing, Seen, wanted_of
from twinlens.workers.reconcile.repairs import Repairs, lost_item
from twinlens.workers.reconcile.shards import Shards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

    from twinlens.shared.answers import DifferenceKind, ReconcileQuery
    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import ManifestItem
    from twinlens.shared.redis.catalog import ChunkRun
    from twinlens.shared.redis.jobs import Job, Jobs
    from twinlens.shared.settings import Settings
    from twinlens.workers.library.damages import Damages
    from twinlens.workers.library.plans import Plans
    from twinlens.workers.reconcile.comparing import Wanted
    from twinlens.workers.reconcile.reading import Reading
    from twinlens.workers.reconcile.told import Standing

MAX_EXAMPLES = 5
# Of listed pictures, how many are queued at once.
FETCH_ITEMS = 1000


@dataclass
class Tally:
    """Counts differences."""

    differences: dict[DifferenceKind, Difference] = field(default_factory=dict)

    def add(self, kind: DifferenceKind, labels: Sequence[str]) -> None:
        """Counts images that differ so."""
        if labels:
            one = self.differences.setdefault(kind, Difference())
            one.count += len(labels)
            one.examples += labels[: MAX_EXAMPLES - len(one.examples)]

    def repair(self, kind: DifferenceKind, n_repaired: int, n_queued: int = 0) -> None:
        """Counts what was done."""
        if n_repaired or n_queued:
            self.differences[kind].repaired += n_repaired
            self.differences[kind].queued += n_queued


@dataclass(frozen=True, kw_only=True)
class Reconciling:
    """Plans and carries out what `twinlens reconcile` asks for. Repeated, it goes on."""

    settings: Settings
    jobs: Jobs
    plans: Plans
    reading: Reading
    comparing: Comparing
    repairs: Repairs
    damages: Damages

    def plan(self, app: Celery, job_id: str, asked: ReconcileQuery) -> None:
        """Compares a library, repairs what can be at once, and queues what must be embedded.

        Raises:
            LibraryNotFound: The library has been removed.
            ModelNotFound: A model of the library is not there.
            ChunkIsOver: The job has been cancelled.
            Unavailable: Milvus does not answer; to be run again.
        """
        job = self.plans.begin(job_id)
        if job is None:
            return
        run = _Run(self, app, job, asked)
        run.compare()
        self.damages.look()
        self.jobs.keep_result(job, run.result())
        self.plans.feed.seal(job.id)


class _Run:
    """One comparison of one library."""

    def __init__(self, ports: Reconciling, app: Celery, job: Job, asked: ReconcileQuery) -> None:
        self._ports = ports
        self._app = app
        self._job = job
        self._asked = asked
        self._catalog = ports.comparing.catalog
        self._tally = Tally()
        self._n_compared = 0

    def compare(self) -> None:
        ports, job = self._ports, self._job
        library = self._catalog.library(job.library, job.library_id)
        wanted = wanted_of(library, job.created_at)
        standings = ports.reading.standings(library.id, job.created_at)
        folder = ports.settings.data_dir
        with Shards(folder, self._size(library)) as shards:
            ports.reading.read_into(shards, library.id, standings)
            for begin in shards.prefixes:
                # What is removed from now on stays removed.
                run = self._catalog.begin_chunk(job.id, job.n_chunks)
                seen = ports.comparing.compare(library, begin, shards.read(begin), wanted)
                for start in range(0, len(seen), READ_ENTRIES):
                    self._judge(run, library, seen[start : start + READ_ENTRIES], wanted)
                self._n_compared += len(seen)
                if not ports.jobs.note_compared(job.id, self._n_compared):
                    return
        unfetched = ports.reading.unfetched(standings)
        while some := list(islice(unfetched, FETCH_ITEMS)):
            self._fetch(some)
        if not self._asked.check:
            self._end_lost(standings)
            self._catalog.change_library(library.name, _has_its_images, library.id)

    def result(self) -> StoredResult:
        told = Reconciliation(
            check=self._asked.check,
            compared=self._n_compared,
            differences=self._tally.differences,
        )
        text = f'{{"status": "SUCCESS", "result": {told.model_dump_json()}}}'
        return StoredResult(keys.result(self._job.id), text)

    def _size(self, library: Library) -> int:
        stored = self._ports.comparing.vectors.count_stored
        return max(self._catalog.count(library.id), *map(stored, library.all_collections))

    def _judge(self, run: ChunkRun, library: Library, seen: Sequence[Seen], wanted: Wanted) -> None:
        by_kind: dict[DifferenceKind, list[Seen]] = {}
        for one in seen:
            if one.difference is not None:
                by_kind.setdefault(one.difference, []).append(one)
        for kind, some in by_kind.items():
            self._tally.add(kind, [one.label for one in some])
        if self._asked.check:
            return
        self._restore(run, library, by_kind.get("not_catalogued", []), wanted)
        self._embed_again(library, by_kind.get("not_embedded", []))
        self._remove(library, by_kind)
        same = [one for one in seen if one.difference is None]
        self._ports.repairs.write_journal(library, same, wanted.since)

    def _restore(
        self, run: ChunkRun, library: Library, seen: Sequence[Seen], wanted: Wanted
    ) -> None:
        whole = [one for one in seen if wanted.of_all <= one.present]
        done = self._ports.repairs.catalogue(run, library, whole, wanted.since) if whole else set()
        left = [lost_item(one) for one in seen if not wanted.of_all <= one.present]
        self._queue("not_catalogued", left, n_repaired=len(done))

    def _embed_again(self, library: Library, seen: Sequence[Seen]) -> None:
        items = self._ports.repairs.admit_losses(library, seen)
        # As for another edition: whatever is said of an image by then stays.
        self._ports.plans.add(self._app, self._job, items, "reindex")
        self._tally.repair("not_embedded", 0, len(items))

    def _remove(self, library: Library, by_kind: Mapping[DifferenceKind, list[Seen]]) -> None:
        repairs = self._ports.repairs
        if strays := by_kind.get("stray_vectors"):
            self._tally.repair("stray_vectors", len(repairs.remove_strays(library, strays)))
        if left := by_kind.get("half_removed"):
            repairs.finish_removals(library, left)
            self._tally.repair("half_removed", len(left))
        if self._asked.remove_orphans and (orphans := by_kind.get("orphans")):
            removed = repairs.remove_orphans(library, orphans, time.time() - DAY_S)
            self._tally.repair("orphans", len(removed))

    def _fetch(self, items: Sequence[ManifestItem]) -> None:
        """Queues listed pictures that were accepted, and that no worker has fetched."""
        self._tally.add("not_catalogued", [item.name or str(item.uri) for item in items])
        if not self._asked.check:
            self._queue("not_catalogued", items)

    def _queue(
        self, kind: DifferenceKind, items: Sequence[ManifestItem], n_repaired: int = 0
    ) -> None:
        self._ports.plans.add(self._app, self._job, items)
        self._tally.repair(kind, n_repaired, len(items))

    def _end_lost(self, standings: Mapping[str, Standing]) -> None:
        """Removes manifests whose jobs are lost: all that they say is said elsewhere by now."""
        for job_id, standing in standings.items():
            # It may have been on its way in.
            if standing in ("lost", "cancelled") and self._ports.jobs.status(job_id) is None:
                self._ports.reading.blobs.delete_manifests(job_id)


def _has_its_images(library: Library) -> Library | None:
    if not library.has_lost_images:
        return None
    library.has_lost_images = False
    return library
