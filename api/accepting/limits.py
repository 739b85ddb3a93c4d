"""Too much at once: what is refused before anything is stored, and when to try again."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Literal

from twinlens.api.waiting import MAX_STREAMS, Places
from twinlens.shared.disk import has_room
from twinlens.shared.errors import QueueFull, StorageFull
from twinlens.shared.redis.presence import live_workers

if TYPE_CHECKING:
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.redis.feed import Feed
    from twinlens.shared.settings import Settings

# A refused caller is told to come back when there is room for more than a picture.
ROOM = 0.1
# Nobody is told to wait longer than this: more workers may join at any time.
MAX_RETRY_AFTER_S = 600


class Limits:
    """How much the service accepts at a time."""

    def __init__(self, settings: Settings, redis: Redis, feed: Feed) -> None:
        self._settings = settings
        self._redis = redis
        self._feed = feed
        self.streams = Places(MAX_STREAMS, "streams of events are open; poll the job instead")

    def check_queue(self, name: Literal["search", "single"]) -> None:
        """Refuses what would wait too long.

        Raises:
            QueueFull: Too many tasks are waiting.
        """
        n_waiting = self._redis.llen(name)
        if n_waiting < self._settings.max_queued_tasks:
            return
        lane = "search" if name == "search" else "bulk"
        rate = sum(one.tasks_per_s for one in live_workers(self._redis) if lane in one.lanes)
        raise QueueFull(
            f"{n_waiting} tasks are waiting in the queue {name!r}.",
            retry_after_s=_time_to_room(n_waiting, self._settings.max_queued_tasks, rate),
        )

    def check_backlog(self) -> None:
        """Refuses a bulk upload while too much is waiting.

        Raises:
            QueueFull: Too many pictures are waiting.
        """
        n_waiting = self._feed.backlog()
        if n_waiting < self._settings.max_backlog:
            return
        rate = sum(one.pictures_per_s for one in live_workers(self._redis))
        raise QueueFull(
            f"{n_waiting} pictures are waiting to be embedded.",
            retry_after_s=_time_to_room(n_waiting, self._settings.max_backlog, rate),
        )

    def check_disk(self, n_bytes: int = 0) -> None:
        """Refuses what would fill the disk.

        Args:
            n_bytes: How much is to be stored, where that is known.

        Raises:
            StorageFull: Less than the reserve would be left free.
        """
        with contextlib.suppress(FileNotFoundError):  # the first upload makes the directory
            if not has_room(self._settings, n_bytes):
                raise StorageFull(
                    f"The upload would leave less than {self._settings.disk_reserve_bytes} bytes"
                    " free on the disk."
                )


def _time_to_room(n_waiting: int, limit: int, rate: float) -> int:
    """Returns the seconds until, at this rate, a tenth of the limit is free."""
    n_over = n_waiting - (1 - ROOM) * limit
    if rate <= 0:
        return MAX_RETRY_AFTER_S
    return max(1, min(math.ceil(n_over / rate), MAX_RETRY_AFTER_S))
