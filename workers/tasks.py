"""The tasks, kept thin: ids in, plain values out. The work is done by the modules they call."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore, Reject, TimeLimitExceeded
from kombu.exceptions import OperationalError
from pydantic import BaseModel
from redis import RedisError

from twinlens.shared import queue
from twinlens.shared.answers import Deletion, ReconcileQuery
from twinlens.shared.errors import Crashed, Internal, Problem, TwinlensError, Unavailable
from twinlens.shared.filters.language import parse_filter
from twinlens.shared.messages import ChunkItems, Description
from twinlens.shared.queries import (
    CompareQuery,
    Duplicates,
    DuplicatesQuery,
    SearchQuery,
    SearchResult,
)
from twinlens.shared.redis import keys
from twinlens.shared.redis.catalog import ChunkIsOver
from twinlens.shared.redis.jobs import ENDED, Jobs, StoredResult
from twinlens.shared.redis.sent import SentPictures
from twinlens.workers.chunk.tries import MAX_TRIES
from twinlens.workers.process.app import celery_app, redis_of_parent, runtime
from twinlens.workers.process.backend import handed_back
from twinlens.workers.query.examples import NumSent

if TYPE_CHECKING:
    BaseTask = Task[Any, Any]
else:
    BaseTask = Task  # generic only for the type checker

log = logging.getLogger(__name__)

# Milvus may be down for as long as a restart or a repair takes: what was accepted waits.
RETRY_AFTER_S = 5
REPLY_TTL_S = 60
# What is no fault of a task, but of what it needs.
OUTAGES = (Unavailable, RedisError, OperationalError)


def problem_of(error: BaseException) -> Problem:
    """Returns an error as data; one that is not ours is logged and reported as `Internal`."""
    if isinstance(error, RedisError | OperationalError):
        error = Unavailable("Redis did not answer; try again.")
    if isinstance(error, TwinlensError):
        return error.to_problem()
    log.error("a task failed unexpectedly", exc_info=error)
    return Internal("The task failed unexpectedly; the log says why.").to_problem()


class JobTask(BaseTask):
    """A task that ends its job. What it returns is the job's result."""

    throws = (TwinlensError,)

    def conclude(
        self, jobs: Jobs, task_id: str, result: BaseModel | None, stored: StoredResult
    ) -> None:
        """Ends the job, in the round trip that stores the result (`JobBackend`)."""
        jobs.finish(task_id, stored=None if result is None else stored)

    def on_failure(
        self,
        exc: Exception,
        task_id: str,
        args: Any,
        kwargs: Any,
        einfo: Any,
    ) -> None:
        Jobs(redis_of_parent()).finish(kwargs["job_id"], problem_of(exc))


class PatientTask(JobTask):
    """A task that outlives whatever is away: it is tried again until all that it needs is there."""

    autoretry_for = OUTAGES
    max_retries = None
    default_retry_delay = RETRY_AFTER_S

    def retry(self, *args: Any, **options: Any) -> Any:
        """Queues the task for later; if Redis is away, its message goes back.

        Raises:
            Reject: Redis does not take it. Celery would drop the message.
        """
        try:
            return super().retry(*args, **options)
        except Reject as error:
            # Its own cause is what did not go into the queue.
            raise handed_back(getattr(error, "reason", None) or error) from error

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        # A worker that must stop hands its tasks back this way, too; neither is a try.
        with contextlib.suppress(RedisError):
            part = str(kwargs.get("chunk", "task"))
            Jobs(redis_of_parent()).end_try(kwargs["job_id"], part)

    def on_failure(
        self,
        exc: Exception,
        task_id: str,
        args: Any,
        kwargs: Any,
        einfo: Any,
    ) -> None:
        # Redis could not be told why the task failed: the sweeper queues it again.
        if not isinstance(exc, OUTAGES):
            super().on_failure(exc, task_id, args, kwargs, einfo)


class StepTask(PatientTask):
    """The first step of a job: later ones end the job, unless this one fails."""

    def conclude(
        self, jobs: Jobs, task_id: str, result: BaseModel | None, stored: StoredResult
    ) -> None:
        """Leaves the job as it is."""


class ChunkTask(PatientTask):
    """A part of a job."""

    def conclude(
        self, jobs: Jobs, task_id: str, result: BaseModel | None, stored: StoredResult
    ) -> None:
        """Counts the chunk, in the round trip that stores its outcomes (`JobBackend`)."""
        assert isinstance(result, ChunkItems)
        job_id, chunk = queue.chunk_of(task_id)
        request: Any = self.request
        request.is_last = jobs.count_chunk(job_id, chunk, result.root, stored)

    def on_success(self, retval: ChunkItems, task_id: str, args: Any, kwargs: Any) -> None:
        # If Redis or Milvus does not answer now, the sweeper does both later.
        with contextlib.suppress(*OUTAGES):
            runtime().feed.top_up(celery_app)
            request: Any = self.request
            if request.is_last:
                runtime().editions.switch_if_built(kwargs["job_id"])
                runtime().sweeper.damages.look()

    def on_failure(
        self,
        exc: Exception,
        task_id: str,
        args: Any,
        kwargs: Any,
        einfo: Any,
    ) -> None:
        if not isinstance(exc, TimeLimitExceeded):
            super().on_failure(exc, task_id, args, kwargs, einfo)
            return
        # Its next try goes picture by picture, so it gets further each time.
        job = Jobs(redis_of_parent()).get(kwargs["job_id"])
        log.warning("chunk %d of job %s ran too long", kwargs["chunk"], job.id)
        name = "single" if job.kind == "embed" else "bulk"
        queue.publish(celery_app, queue.chunk_task(name, job.id, kwargs["chunk"]), job.request_id)


class CallTask(BaseTask):
    """Answers a caller that waits on a Redis list."""

    throws = (TwinlensError,)
    ignore_result = True

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self._reply(task_id, queue.Reply(value=retval))

    def on_failure(
        self,
        exc: Exception,
        task_id: str,
        args: Any,
        kwargs: Any,
        einfo: Any,
    ) -> None:
        self._reply(task_id, queue.Reply(error=problem_of(exc)))

    def _reply(self, task_id: str, reply: queue.Reply) -> None:
        with redis_of_parent().pipeline() as pipeline:
            pipeline.rpush(keys.reply(task_id), reply.model_dump_json())
            pipeline.expire(keys.reply(task_id), REPLY_TTL_S)
            pipeline.execute()


class CompareTask(CallTask):
    """A comparison. Its pictures go once its caller is answered."""

    def after_return(self, *told: Any) -> None:
        _status, _result, task_id, _args, kwargs, _error = told
        n_pictures = 2 - len(kwargs["query"]["image_ids"])
        with contextlib.suppress(RedisError):  # if Redis is away, they expire
            SentPictures(redis_of_parent()).forget(task_id, n_pictures)


def _begin(job_id: str) -> None:
    """Starts a job of one task.

    Raises:
        Ignore: The job has ended, e.g. because its task was redelivered.
        Crashed: The task has ended its worker process too often.
    """
    n_tries = runtime().jobs.begin(job_id)
    if n_tries == 0:
        raise Ignore
    if n_tries > MAX_TRIES:
        raise Crashed(f"The task ended its worker process {MAX_TRIES} times and was given up.")


def _check_wanted(job_id: str) -> None:
    """Leaves a task whose job has ended without it: it was cancelled, or is late.

    Raises:
        Ignore: It has.
    """
    if runtime().jobs.status(job_id) in ENDED:
        raise Ignore


def _is_again(task: BaseTask) -> bool:
    """Tells if a task may have been begun before: its worker was lost, or a part was away."""
    request: Any = task.request
    return bool(request.retries or request.delivery_info.get("redelivered"))


@celery_app.task(name=queue.EMBED_CHUNK, base=ChunkTask, bind=True)
def embed_chunk(self: BaseTask, job_id: str, chunk: int) -> ChunkItems:
    if not runtime().jobs.start(job_id):
        runtime().feed.forget_chunk(job_id, chunk)
        if _is_again(self):
            runtime().chunks.leave_whole(job_id, chunk)
        runtime().feed.top_up(celery_app)
        raise Ignore
    try:
        return ChunkItems(runtime().chunks.run(job_id, chunk, is_again=_is_again(self)))
    except OUTAGES:
        raise
    except ChunkIsOver:
        raise Ignore from None
    except Exception as error:  # noqa: BLE001 (a bug of ours must not hold up the rest of the job)
        return ChunkItems(runtime().chunks.fail(job_id, chunk, problem_of(error)))


@celery_app.task(name=queue.REINDEX, base=StepTask, time_limit=queue.LIBRARY_TIME_LIMIT_S)
def reindex(job_id: str) -> None:
    runtime().editions.plan(celery_app, job_id)


@celery_app.task(name=queue.RETRY, base=StepTask, time_limit=queue.LIBRARY_TIME_LIMIT_S)
def retry(job_id: str) -> None:
    runtime().retries.plan(celery_app, job_id)


@celery_app.task(name=queue.RECONCILE, base=StepTask, time_limit=queue.LIBRARY_TIME_LIMIT_S)
def reconcile(job_id: str, asked: dict[str, Any]) -> None:
    try:
        runtime().reconciling.plan(celery_app, job_id, ReconcileQuery.model_validate(asked))
    except ChunkIsOver:
        raise Ignore from None


@celery_app.task(name=queue.SEARCH, base=JobTask, time_limit=queue.SEARCH_TIME_LIMIT_S)
def search(
    job_id: str, query: dict[str, Any], submitted_at: float, sent: tuple[int, int]
) -> SearchResult:
    _begin(job_id)
    asked = SearchQuery.model_validate(query)
    return runtime().searches.search(job_id, asked, submitted_at, NumSent(*sent))


@celery_app.task(name=queue.DELETE_IMAGE, base=PatientTask)
def delete_image(job_id: str, image_id: str) -> None:
    _begin(job_id)
    runtime().images.delete(runtime().jobs.get(job_id), [image_id])


@celery_app.task(name=queue.DELETE_IMAGES, base=StepTask, time_limit=queue.LIBRARY_TIME_LIMIT_S)
def delete_images(job_id: str, wanted: dict[str, Any]) -> None:
    runtime().deletions.plan(celery_app, job_id, Deletion.model_validate(wanted))


@celery_app.task(
    name=queue.FIND_DUPLICATES, base=PatientTask, time_limit=queue.LIBRARY_TIME_LIMIT_S
)
def find_duplicates(job_id: str, query: dict[str, Any]) -> Duplicates:
    _begin(job_id)
    asked = DuplicatesQuery.model_validate(query)
    return runtime().near_duplicates.find(asked, lambda: _check_wanted(job_id))


@celery_app.task(
    name=queue.COMPARE, base=CompareTask, bind=True, time_limit=queue.SEARCH_TIME_LIMIT_S
)
def compare(self: BaseTask, query: dict[str, Any]) -> dict[str, Any]:
    asked = CompareQuery.model_validate(query)
    return runtime().comparisons.compare(str(self.request.id), asked).model_dump()


@celery_app.task(name=queue.DELETE_LIBRARY, base=PatientTask, time_limit=queue.LIBRARY_TIME_LIMIT_S)
def delete_library(job_id: str) -> None:
    _begin(job_id)
    runtime().removals.remove(runtime().jobs.get(job_id))


@celery_app.task(name=queue.CHANGE_IMAGE, base=CallTask, time_limit=queue.SEARCH_TIME_LIMIT_S)
def change_image(library: str, image_id: str, description: dict[str, Any]) -> dict[str, Any]:
    said = Description.model_validate(description)
    image = runtime().amendments.change(library, image_id, said)
    return image.model_dump(mode="json")


@celery_app.task(name=queue.MAKE_THUMBNAIL, base=CallTask, time_limit=queue.SEARCH_TIME_LIMIT_S)
def make_thumbnail(library_id: str, image_id: str) -> None:
    runtime().images.make_thumbnail(library_id, image_id)


@celery_app.task(name=queue.COUNT_VECTORS, base=CallTask, time_limit=queue.SEARCH_TIME_LIMIT_S)
def count_vectors(library: str) -> dict[str, int]:
    return runtime().images.count_vectors(library)


@celery_app.task(name=queue.COUNT_IMAGES, base=CallTask, time_limit=queue.SEARCH_TIME_LIMIT_S)
def count_images(library: str, where: str) -> int:
    return runtime().images.count(library, parse_filter(where))


@celery_app.task(name=queue.READ_VECTORS, base=CallTask, time_limit=queue.SEARCH_TIME_LIMIT_S)
def read_vectors(library: str, image_id: str, models: list[str]) -> list[dict[str, Any]]:
    vectors = runtime().images.read_vectors(library, image_id, models)
    return [vector.model_dump() for vector in vectors]


@celery_app.task(name=queue.PROBE, ignore_result=True)
def probe() -> None:
    runtime().health.look()
