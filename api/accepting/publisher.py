"""Tasks on their way into Celery's queues, known by name alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twinlens.shared.log import request_id
from twinlens.shared.queue import publish

if TYPE_CHECKING:
    from celery import Celery

    from twinlens.shared.queue import TaskMessage
    from twinlens.shared.redis.feed import Feed


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """Queues tasks. Every method raises kombu's OperationalError where Redis does not answer."""

    celery: Celery
    feed: Feed

    def publish(self, task: TaskMessage, **options: Any) -> None:
        """Queues a task, with the id of the request that it comes from.

        Args:
            task: The task.
            options: Options of Celery's `send_task`.
        """
        publish(self.celery, task, request_id.get(), **options)

    def feed_workers(self) -> None:
        """Queues chunks of bulk uploads, as many as keep the workers busy."""
        self.feed.top_up(self.celery)
