"""Builds another edition of a library, while the current one is still searched.

plan ─▶ chunks of all that is stored ─▶ each embedded for what it lacks ─▶ probe ─▶ switch

As soon as the edition is in the library's record, new pictures are embedded for it as well
(workers/chunk/), so it is complete once the stored ones are done.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from twinlens.shared.errors import LibraryNotFound, ModelError, NotFound, ReindexFailed
from twinlens.shared.messages import now
from twinlens.workers.library.each import look_after_each
from twinlens.workers.library.plans import Plans, item_of
from twinlens.workers.targets import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from twinlens.shared.libraries import Library, PreviousEdition
    from twinlens.shared.messages import ManifestItem
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Job, Jobs
    from twinlens.shared.settings import Settings
    from twinlens.workers.library.calibrations import Calibrations
    from twinlens.workers.milvus.collection import Collection
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.targets import Targets

log = logging.getLogger(__name__)

# Pictures that must find themselves before an edition is switched on.
N_PROBES = 8
# Images come and go meanwhile: look again before taking a difference for a fault.
N_LOOKS = 5
LOOK_PAUSE_S = 1.0
# Milvus computes distances in float32 or float16, each time in a different order.
TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Editions:
    """Plans a library's next edition, switches it on when it is complete, and tidies up."""

    settings: Settings
    jobs: Jobs
    catalog: Catalog
    vectors: Vectors
    targets: Targets
    calibrations: Calibrations
    plans: Plans

    def plan(self, app: Celery, job_id: str) -> None:
        """Queues all of a library's pictures, in chunks, to be embedded for its next edition.

        Run again after an interruption, it queues some pictures twice; they are then skipped.
        """
        job = self.plans.begin(job_id)
        if job is not None:
            stored = self._stored(job.library_id)
            self.plans.queue(app, job, stored, are_decoded=self._needs_pictures(job))
            self.switch_if_built(job_id)

    def switch_if_built(self, job_id: str) -> None:
        """Ends a job that has embedded everything: from now on, its edition is searched.

        The previous one is kept, and kept up to date, for a while, so going back loses nothing.
        If a picture could not be embedded, the library stays as it was.

        Raises:
            Unavailable: Milvus does not answer.
        """
        job = self.jobs.get(job_id)
        if job.has_ended or not job.is_counted:
            return
        try:
            self._switch(job)
        except (ReindexFailed, LibraryNotFound) as error:
            with contextlib.suppress(LibraryNotFound):
                self.catalog.give_up_plan(job.library, job_id)
            self.jobs.finish(job_id, error.to_problem())
        else:
            self.jobs.finish(job_id)

    def give_up(self, job: Job) -> bool:
        """Gives up the edition that a job builds; returns False where it is searched already."""
        try:
            return self.catalog.give_up_plan(job.library, job.id, job.library_id)
        except LibraryNotFound:
            return True

    def _switch(self, job: Job) -> None:
        self._check(job)
        until = now() + timedelta(seconds=self.settings.rollback_s)

        def switch(library: Library) -> Library | None:
            if library.next is None or library.next.job_id != job.id:
                return None
            return library.switched(library.next, kept_until=until, job_id=job.id)

        # So that scores mean the same from the first search on.
        library = self.catalog.library(job.library, job.library_id)
        self.calibrations.measure(library, self.catalog.count(library.id))
        self.catalog.change_library(job.library, switch, job.library_id)

    def tend(self) -> None:
        """Continues where a worker was lost, and drops what is no longer needed.

        Raises:
            Unavailable: Milvus does not answer.
        """
        look_after_each(self.catalog, self._tend)
        for name in self.catalog.unused_collections():
            self.vectors.drop(name)
            self.catalog.forget_collection(name)

    def _tend(self, library: Library) -> None:
        if library.next is not None:
            self._tend_next(library.name, library.next.job_id)
        if library.previous is not None:
            self._tend_previous(library.name, library.previous)

    def _tend_previous(self, library: str, previous: PreviousEdition) -> None:
        if previous.job_id:
            # Whoever switched its edition on may have died before he could say so.
            self.jobs.finish(previous.job_id)
        if previous.until < now():
            self.catalog.change_library(library, _forget_previous)

    def _tend_next(self, library: str, job_id: str) -> None:
        job = self.jobs.find(job_id)
        if job is None or job.has_ended:
            self.catalog.give_up_plan(library, job_id)
        else:
            self.switch_if_built(job_id)

    def _needs_pictures(self, job: Job) -> bool:
        """Tells if the next edition has vectors that cannot be computed from those there are."""
        try:
            library = self.catalog.library(job.library, job.library_id)
            targets = self.targets.of_editions(library)
        except (NotFound, ModelError):
            return True  # its chunks will say what is wrong
        current = (library, library.previous) if library.previous else (library,)
        there = {name for edition in current for name in edition.collections.values()}
        lacking = [target for name, target in targets.items() if name not in there]
        return any(source_of(target, targets) is None for target in lacking)

    def _stored(self, library_id: str) -> Iterator[ManifestItem]:
        return map(item_of, self.catalog.all_entries(library_id))

    def _check(self, job: Job) -> None:
        """Checks that the next edition is complete, and finds its pictures.

        Raises:
            ReindexFailed: It is not, or does not.
            LibraryNotFound: The library has been removed.
        """
        if job.failed:
            raise ReindexFailed(
                f"{job.failed} pictures could not be embedded (see the job's items): remove them,"
                " or post them again, and request the change again."
            )
        library = self.catalog.library(job.library, job.library_id)
        if library.next is None or library.next.job_id != job.id:
            return
        before = set(library.collections.values())
        for _, collection in self.targets.of(library.next):
            if collection.name not in before:
                self._check_count(library.id, collection)
                self._check_answers(library.id, collection)

    def _check_count(self, library_id: str, collection: Collection) -> None:
        for _ in range(N_LOOKS):
            n_images = self.catalog.count(library_id)
            n_vectors = self.vectors.count(collection)
            if n_vectors >= n_images:
                return
            time.sleep(LOOK_PAUSE_S)
        raise ReindexFailed(
            f"Model {collection.card.ref} has embeddings of only {n_vectors} of {n_images}"
            " pictures; request the change again."
        )

    def _check_answers(self, library_id: str, collection: Collection) -> None:
        """Searches with some stored pictures: none may find another nearer than itself."""
        for _ in range(N_LOOKS):
            some = list(islice(self.catalog.all_ids(library_id), N_PROBES))
            rows = self.vectors.fetch(collection, some)
            if all(self._finds_itself(collection, *one) for one in rows.items()):
                return
            time.sleep(LOOK_PAUSE_S)
        raise ReindexFailed(f"Model {collection.card.ref} does not find what it has embedded.")

    def _finds_itself(self, collection: Collection, image_id: str, row: Any) -> bool:
        [first] = self.vectors.nearest(collection, row[None], 1)
        [itself] = self.vectors.distances_to(collection, row[None], [image_id])
        # Neither is there if it has just been removed.
        if not first or not itself:
            return True
        return abs(itself[image_id] - min(first.values())) <= TOLERANCE


def _forget_previous(library: Library) -> Library | None:
    if library.previous is None or library.previous.until >= now():
        return None
    library.previous = None
    return library
