"""Calls: short tasks whose answer the API waits for within one request, without a job."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twinlens.api.waiting import watch_client
from twinlens.shared.errors import Unavailable
from twinlens.shared.queue import Reply, TaskMessage
from twinlens.shared.redis import keys
from twinlens.shared.redis.presence import live_workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.api.accepting.publisher import Publisher
    from twinlens.api.waiting import Places
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.redis.sent import SentPictures

# Shorter than the client's socket timeout, which would end a longer BLPOP with an error.
_REPLY_SLICE_S = 1.0


@dataclass(frozen=True)
class Calls:
    """Asks a search worker."""

    redis: Redis
    publisher: Publisher
    waiters: Places
    sent: SentPictures

    def call(
        self, name: str, kwargs: dict[str, Any], timeout_s: float, pictures: Sequence[bytes] = ()
    ) -> Reply:
        """Queues a short task, with pictures under its id, and waits for its answer.

        Raises:
            Unavailable: No search worker is running, or none answered in time.
            QueueFull: Too many wait, or other queries' pictures take all the memory.
        """
        with self.waiters.taken():
            return self._call(name, kwargs, timeout_s, pictures)

    def _call(
        self, name: str, kwargs: dict[str, Any], timeout_s: float, pictures: Sequence[bytes]
    ) -> Reply:
        if not any("search" in worker.lanes for worker in live_workers(self.redis)):
            raise Unavailable("No search worker is running.")
        task_id = uuid.uuid4().hex
        self.sent.reserve(task_id, pictures, timeout_s)
        for number, picture in enumerate(pictures):
            self.redis.set(keys.query_picture(task_id, number), picture, px=int(timeout_s * 1000))
        task = TaskMessage(name, kwargs, task_id, "search")
        # Nobody reads the answer once the caller has given up.
        self.publisher.publish(task, ignore_result=True, expires=timeout_s)
        deadline, is_there = time.monotonic() + timeout_s, watch_client()
        while (left_s := deadline - time.monotonic()) > 0 and is_there():
            answer = self.redis.blpop([keys.reply(task_id)], timeout=min(left_s, _REPLY_SLICE_S))
            if answer is not None:
                return Reply.model_validate_json(answer[1])
        raise Unavailable("No worker answered in time.")
