"""The queue: lanes, task names, and the Celery settings that both sides must share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from pydantic import BaseModel

from twinlens.shared.errors import Problem
from twinlens.shared.messages import Lane
from twinlens.shared.settings import CALLER_TIMEOUT_S

if TYPE_CHECKING:
    from twinlens.shared.settings import Settings

# Tasks, by name alone: neither side imports the other.
EMBED_CHUNK = "twinlens.embed_chunk"
SEARCH = "twinlens.search"
DELETE_IMAGE = "twinlens.delete_image"
DELETE_IMAGES = "twinlens.delete_images"
REINDEX = "twinlens.reindex"
RETRY = "twinlens.retry"
RECONCILE = "twinlens.reconcile"
DELETE_LIBRARY = "twinlens.delete_library"
CHANGE_IMAGE = "twinlens.change_image"
MAKE_THUMBNAIL = "twinlens.make_thumbnail"
READ_VECTORS = "twinlens.read_vectors"
COUNT_IMAGES = "twinlens.count_images"
COUNT_VECTORS = "twinlens.count_vectors"
COMPARE = "twinlens.compare"
FIND_DUPLICATES = "twinlens.find_duplicates"
PROBE = "twinlens.probe"

# What the workers of a lane take. Kombu takes from a worker's queues in turn, so a single
# picture or a removal waits for a chunk or two, not for the million that came before it.
LANES: dict[Lane, tuple[str, ...]] = {"search": ("search",), "bulk": ("single", "bulk")}
QUEUES = tuple(queue for queues in LANES.values() for queue in queues)

DAY_S = 86_400
SEARCH_TIME_LIMIT_S = 60
# For a task that goes through a whole library by itself: planning, near-duplicates, removal.
LIBRARY_TIME_LIMIT_S = 6 * 3_600


def chunk_task_id(job_id: str, chunk: int) -> str:
    """Returns the Celery id of a chunk, by which its outcomes are found again."""
    return f"{job_id}.{chunk}"


def chunk_of(task_id: str) -> tuple[str, int]:
    """Returns the job and the chunk of a Celery id that `chunk_task_id` made."""
    job_id, _, chunk = task_id.rpartition(".")
    return job_id, int(chunk)


def celery_url(redis_url: str) -> str:
    """Returns the URL of Redis as Celery takes it: that of a Unix socket is another.

    >>> celery_url("unix:///run/valkey.sock?db=1")
    'redis+socket:///run/valkey.sock?virtual_host=1'
    >>> celery_url("redis://valkey:6379/0")
    'redis://valkey:6379/0'
    """
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    [database] = parse_qs(parts.query).get("db", ["0"])
    return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={database}"


def make_celery(settings: Settings, backend: str | None = None) -> Celery:
    """Returns the Celery app of one side.

    Args:
        settings: Names Redis and the visibility timeout.
        backend: Name of the class that keeps results in Redis: the workers'. The API publishes
            without one, since every submit would open a subscription there, and reads results
            with a plain GET.
    """
    url = celery_url(settings.redis_url)
    app = Celery("twinlens", broker=url, set_as_current=backend is not None)
    app.conf.update(
        result_backend=f"{backend}+{url.removeprefix('redis+')}" if backend else "disabled",
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_default_queue="bulk",
        task_create_missing_queues=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_time_limit=settings.chunk_time_limit_s,
        result_expires=settings.job_ttl_s,
        result_backend_always_retry=True,
        result_backend_max_retries=20,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_max": 0.2},
        # Redis may read its append-only file for longer than any number of tries.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # As a process starts, it verifies models, and waits for Milvus to load collections: minutes
        # where they are large. One that waits is not to be killed for it.
        worker_proc_alive_timeout=DAY_S,
        worker_hijack_root_logger=False,
        # Three names for one thing; where they differ, the shortest wins.
        visibility_timeout=settings.visibility_timeout_s,
        broker_transport_options=_transport_options(settings)
        # Where a caller waits; workers wait for a message without end.
        | ({} if backend else {"socket_timeout": CALLER_TIMEOUT_S}),
        result_backend_transport_options=_transport_options(settings),
    )
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    return {
        "visibility_timeout": settings.visibility_timeout_s,
        # Kombu looks for lost tasks only every 100 s by default.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # Whoever looks holds a lock; one that is killed meanwhile would stop all others for 300 s.
        # It is held for milliseconds, and without it a message may at worst come back twice.
        "unacked_mutex_expire": 5,
        "socket_connect_timeout": 1,
        "queue_order_strategy": "round_robin",
    }


@dataclass(frozen=True)
class TaskMessage:
    """A task to be queued. Its id is that of its job, or of its chunk."""

    name: str
    kwargs: dict[str, Any]
    task_id: str
    queue: str


def chunk_task(queue: str, job_id: str, chunk: int) -> TaskMessage:
    """Returns the task of one chunk of an upload."""
    kwargs = {"job_id": job_id, "chunk": chunk}
    return TaskMessage(EMBED_CHUNK, kwargs, chunk_task_id(job_id, chunk), queue)


def publish(app: Celery, task: TaskMessage, request_id: str, **options: Any) -> None:
    """Queues a task.

    Args:
        app: The queue.
        task: The task.
        request_id: That of the request that it comes from.
        options: Options of Celery's `send_task`.

    Raises:
        kombu.exceptions.OperationalError: Redis does not answer.
    """
    app.send_task(
        task.name,
        kwargs=task.kwargs,
        task_id=task.task_id,
        queue=task.queue,
        headers={"request_id": request_id},
        **options,
    )


# Calls: short tasks whose answer the API waits for within one request, without a job.


class Reply(BaseModel):
    """The answer to a call, pushed once on its list: a value, or why there is none."""

    value: Any = None
    error: Problem | None = None
