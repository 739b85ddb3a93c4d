"""Many images at once: which they are is found first, then they are removed chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from twinlens.shared.errors import TooManyImages
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.filters.language import parse_filter
from twinlens.shared.filters.tree import matches
from twinlens.shared.messages import MAX_PAGE, Item, ManifestItem
from twinlens.workers.library.plans import Plans, item_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from celery import Celery

    from twinlens.shared.answers import Deletion
    from twinlens.shared.messages import Outcome
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Job, Jobs
    from twinlens.workers.library.images import Images


@dataclass(frozen=True, kw_only=True)
class Deletions:
    """Removes images that are named, or that a filter is true of."""

    jobs: Jobs
    catalog: Catalog
    images: Images
    plans: Plans

    def plan(self, app: Celery, job_id: str, wanted: Deletion) -> None:
        """Queues the images that are to go.

        Run again after an interruption, it may queue some of them twice; that does no harm.

        Raises:
            TooManyImages: A filter is true of more than 1,000, and the request does not say `all`.
        """
        job = self.plans.begin(job_id)
        if job is None:
            return
        if wanted.ids:
            items = self._named(job.library_id, wanted.ids)
        else:
            items = self._matching(job, wanted.filter)
            if not wanted.all:
                items = iter(_few(items))
        self.plans.queue(app, job, items)

    def remove(self, job_id: str, entries: Sequence[ManifestItem]) -> list[Item]:
        """Removes the images of a chunk; repeating it gives the same outcomes.

        Raises:
            LibraryNotFound: The library has been removed.
            Unavailable: Milvus does not answer; to be done again.
        """
        ids = [one.image_id for one in entries if one.image_id and one.error is None]
        if ids:
            self.images.delete(self.jobs.get(job_id), ids)
        return [_outcome(entry) for entry in entries]

    def _named(self, library_id: str, ids: Sequence[str]) -> Iterator[ManifestItem]:
        there = self.catalog.find(library_id, ids)
        for image_id in dict.fromkeys(ids):
            entry = there.get(image_id)
            yield ManifestItem(name="", image_id=image_id) if entry is None else item_of(entry)

    def _matching(self, job: Job, text: str) -> Iterator[ManifestItem]:
        wanted = parse_filter(text)
        for entry in self.catalog.all_entries(job.library_id):
            # Nobody who asked then has seen what was added since.
            is_old = entry.image.added_at <= job.created_at
            if is_old and matches(wanted, fields_of(entry.image)):
                yield item_of(entry)


def _few(items: Iterable[ManifestItem]) -> list[ManifestItem]:
    some = list(islice(items, MAX_PAGE + 1))
    if len(some) > MAX_PAGE:
        raise TooManyImages(
            f"The filter is true of more than {MAX_PAGE:,} images, and none was removed. To remove"
            ' them all, send `"all": true`.'
        )
    return some


def _outcome(entry: ManifestItem) -> Item:
    # Whether it was there when it was planned: a chunk that runs again finds none of its images.
    was_there = entry.n_bytes > 0
    outcome: Outcome = "failed" if entry.error else "succeeded" if was_there else "skipped"
    return Item(name=entry.name, image_id=entry.image_id, outcome=outcome, error=entry.error)
