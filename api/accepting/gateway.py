"""The port to everything behind the API: job records, catalogue, blobs, and the queue.

Tasks are known by name alone. Nothing connects before the first request, so that the API
starts, and says what is missing, while the parts behind it are down.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flask import current_app

from twinlens.api.accepting.idempotency import IdempotencyKeys, check_same_request
from twinlens.api.accepting.limits import Limits
from twinlens.api.probe import is_listening
from twinlens.shared import queue
from twinlens.shared.blobs import BlobStore
from twinlens.shared.errors import LibraryNotFound, Unavailable
from twinlens.shared.libraries import DEFAULT_LIBRARY, Library
from twinlens.shared.log import request_id
from twinlens.shared.messages import Item, WorkerStatus
from twinlens.shared.redis import keys
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.feed import Feed
from twinlens.shared.redis.jobs import ITEMS, Job, Jobs
from twinlens.shared.redis.presence import live_workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.settings import Settings

EXTENSION = "twinlens"
# The picture of a search waits in Redis no longer than anyone would wait for the answer.
QUERY_TTL_S = 600
# Shorter than the client's socket timeout, which would end a longer BLPOP with an error.
_REPLY_SLICE_S = 2.0


@dataclass(frozen=True)
class TaskMessage:
    """A task to be queued."""

    name: str
    kwargs: dict[str, Any]
    task_id: str
    queue: str


@dataclass(frozen=True)
class Claim:
    """A caller's idempotency key, and what its request asks for."""

    key: str
    fingerprint: str


class Gateway:
    """What the routes work with."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = queue.connect(settings.redis_url)
        self.jobs = Jobs(self.redis)
        self.feed = Feed(self.redis)
        self.keys = IdempotencyKeys(self.redis)
        self.limits = Limits(settings, self.redis, self.feed)
        self.catalog = Catalog(self.redis)
        self.blobs = BlobStore(settings.blob_dir)
        self._celery = queue.make_celery(settings)

    # What is there.

    def library(self, name: str) -> Library:
        """Reads a library. `default` is there before any worker has told its models.

        Raises:
            LibraryNotFound: There is none of this name.
        """
        try:
            return self.catalog.library(name)
        except LibraryNotFound:
            if name == DEFAULT_LIBRARY:
                return Library(name=name, models=[])
            raise

    def libraries(self) -> list[Library]:
        """Returns the libraries by name; there is at least `default`."""
        found = {library.name: library for library in self.catalog.libraries()}
        found.setdefault(DEFAULT_LIBRARY, Library(name=DEFAULT_LIBRARY, models=[]))
        return [found[name] for name in sorted(found)]

    def workers(self) -> list[WorkerStatus]:
        """Returns the worker processes that live."""
        return live_workers(self.redis)

    def queue_lengths(self) -> dict[str, int]:
        """Returns how many tasks wait in each queue."""
        with self.redis.pipeline(transaction=False) as pipeline:
            for name in queue.QUEUES:
                pipeline.llen(name)
            return dict(zip(queue.QUEUES, pipeline.execute(), strict=True))

    def is_milvus_listening(self) -> bool:
        """Tells if something accepts connections at Milvus' address."""
        return is_listening(self.settings.milvus_uri)

    def check_ready(self, queue_name: Literal["search", "single"]) -> None:
        """Refuses work that could not go on, before its body is read.

        Raises:
            Unavailable: Milvus is down (a dead Redis raises its own error).
            QueueFull: Too many tasks wait.
        """
        self.limits.check_queue(queue_name)
        self._check_milvus()

    def check_ready_for_bulk(self, n_bytes: int) -> None:
        """Refuses a bulk upload that could not go on, before its body is read.

        Args:
            n_bytes: Of the body, as far as they are known.

        Raises:
            Unavailable: Milvus is down (a dead Redis raises its own error).
            QueueFull: Too many pictures wait.
            StorageFull: The disk has no room for it.
        """
        self.limits.check_backlog()
        self.limits.check_disk(n_bytes)
        self._check_milvus()

    def _check_milvus(self) -> None:
        if not self.is_milvus_listening():
            raise Unavailable("Milvus does not accept connections.")

    # Queueing.

    def feed_workers(self) -> None:
        """Queues chunks of bulk uploads, as many as keep the workers busy."""
        self.feed.top_up(self._celery)

    def submit(
        self,
        job: Job,
        task: TaskMessage,
        claim: Claim | None = None,
        pictures: Sequence[bytes] = (),
    ) -> str:
        """Records a job of one task, with a search's pictures, and queues it.

        The record comes first: whoever repeats the request with the same idempotency key
        meanwhile is told of a job that is there.

        Returns:
            The id of the job that stands for the request: this one, or an earlier one.

        Raises:
            IdempotencyConflict: The key was sent with another request.
        """
        keys = [keys.query_picture(job.id, number) for number in range(len(pictures))]
        kept = {key: (one, QUERY_TTL_S) for key, one in zip(keys, pictures, strict=True)}
        self.jobs.create(job, kept)
        is_claimed = False
        try:
            if claim is not None:
                owner = self.keys.claim(claim.key, job.id, claim.fingerprint)
                is_claimed = owner.job_id == job.id
                if not is_claimed:
                    check_same_request(owner, claim.fingerprint)
                    self._forget(job, keys)
                    return owner.job_id
            self._publish(task)
        except Exception:
            # If Redis is what failed, this raises as well: the record stays, and the
            # sweeper queues its task.
            if claim is not None and is_claimed:
                self.keys.release(claim.key)
            self._forget(job, keys)
            raise
        return job.id

    def _forget(self, job: Job, keys: Sequence[str]) -> None:
        self.jobs.forget(job)
        if keys:
            self.redis.delete(*keys)

    def call(
        self, name: str, kwargs: dict[str, Any], timeout_s: float, pictures: Sequence[bytes] = ()
    ) -> queue.Reply:
        """Queues a short task, with pictures under its id, and waits for its answer.

        Raises:
            Unavailable: No search worker lives, or none answered in time.
        """
        if not any("search" in worker.lanes for worker in self.workers()):
            raise Unavailable("No search worker is running.")
        task_id = uuid.uuid4().hex
        for number, picture in enumerate(pictures):
            self.redis.set(keys.query_picture(task_id, number), picture, px=int(timeout_s * 1000))
        task = TaskMessage(name, kwargs, task_id, "search")
        # Nobody reads the answer once the caller has given up.
        self._publish(task, ignore_result=True, expires=timeout_s)
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            answer: Any = self.redis.blpop(
                [keys.reply(task_id)], timeout=min(left_s, _REPLY_SLICE_S)
            )
            if answer is not None:
                return queue.Reply.model_validate_json(answer[1])
        raise Unavailable("No worker answered in time.")

    def _publish(self, task: TaskMessage, **options: Any) -> None:
        self._celery.send_task(
            task.name,
            kwargs=task.kwargs,
            task_id=task.task_id,
            queue=task.queue,
            headers={"request_id": request_id.get()},
            **options,
        )

    # Results.

    def chunk_items(self, job_id: str, chunks: Sequence[int]) -> list[list[Item]]:
        """Reads outcomes, chunk by chunk; a chunk that is not done has none."""
        ids = [queue.chunk_task_id(job_id, chunk) for chunk in chunks]
        return [ITEMS.validate_python(items or []) for items in queue.read_results(self.redis, ids)]


def current_gateway() -> Gateway:
    """Returns the gateway of the app that serves this request."""
    gateway = current_app.extensions[EXTENSION]
    assert isinstance(gateway, Gateway)
    return gateway
