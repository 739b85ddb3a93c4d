"""What clients are told about jobs: their records, and their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from twinlens.api.waiting import Places, watch_client
from twinlens.shared.answers import Reconciliation
from twinlens.shared.job_answers import answer_of
from twinlens.shared.messages import Image, Item
from twinlens.shared.queries import Duplicates, SearchResult
from twinlens.shared.redis.results import read_outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.answers import JobAnswer
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.redis.jobs import Job, Jobs

StoredT = TypeVar("StoredT", bound=BaseModel)


class _Stored(BaseModel, Generic[StoredT]):
    """What Celery's result backend stores for a job of one task."""

    result: StoredT


@dataclass(frozen=True)
class JobViews:
    """Reads records and results, and turns them into answers."""

    redis: Redis
    jobs: Jobs
    catalog: Catalog
    waiters: Places

    def wait(self, job_id: str, wait_s: int) -> Job:
        """Returns the job once it has ended, or its client has waited for so long, or is gone.

        Raises:
            QueueFull: Too many wait.
        """
        with self.waiters.taken():
            return self.jobs.wait(job_id, wait_s, watch_client())

    def answer(self, job: Job, *, with_result: bool = True) -> JobAnswer:
        """Returns a job as clients see it."""
        return answer_of(job, self._result_of(job) if with_result else None)

    def outcomes(self, job_id: str, chunks: Sequence[int]) -> list[list[Item]]:
        """Reads outcomes, chunk by chunk; a chunk that is not done has none."""
        return read_outcomes(self.redis, job_id, chunks)

    def _result_of(self, job: Job) -> SearchResult | Duplicates | Reconciliation | Image | None:
        # What a library's stores lack is told though not all of it could be mended.
        if job.status != "succeeded" and not (job.kind == "reconcile" and job.has_ended):
            return None
        if job.kind == "embed":
            return self._embedded(job)
        if job.result is None:
            return None
        if job.kind == "search":
            return _with_linked_images(_stored(SearchResult, job.result))
        if job.kind == "duplicates":
            return _stored(Duplicates, job.result)
        return _stored(Reconciliation, job.result) if job.kind == "reconcile" else None

    def _embedded(self, job: Job) -> Image | None:
        [items] = self.outcomes(job.id, [0])
        if not items or items[0].image_id is None:
            return None
        image_id = items[0].image_id
        # It may have been removed since.
        entry = self.catalog.find(job.library_id, [image_id]).get(image_id)
        return None if entry is None else with_links(entry.image)


def _stored(kind: type[StoredT], text: str) -> StoredT:
    return _Stored[kind].model_validate_json(text).result  # type: ignore[valid-type]


def with_links(image: Image) -> Image:
    """Returns an image that says where it, its bytes and its thumbnail are."""
    path = f"/v1/images/{image.id}"
    query = "" if image.library == "default" else f"?library={quote(image.library, safe='')}"
    links = {
        "self": path + query,
        "content": f"{path}/content{query}",
        "thumbnail": f"{path}/thumbnail{query}",
    }
    return image.model_copy(update={"links": links})


def _with_linked_images(result: SearchResult) -> SearchResult:
    for hit in result.hits:
        hit.image = with_links(hit.image)
    return result
