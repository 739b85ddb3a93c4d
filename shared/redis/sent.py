"""Pictures that were sent with queries: in Redis, no longer than the query, within a bound."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from twinlens.shared.errors import QueueFull
from twinlens.shared.redis import keys
from twinlens.shared.redis.scripts import read_script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.redis.client import Redis


class SentPictures:
    """Takes and gives back the memory of what was sent with queries."""

    def __init__(self, redis: Redis, max_bytes: int = 0) -> None:
        """Begins.

        Args:
            redis: Where the pictures are.
            max_bytes: The most for the pictures of all queries together.
        """
        self._redis = redis
        self._max_bytes = max_bytes
        self._script = redis.register_script(read_script("release", "reserve"))

    def reserve(self, task_id: str, pictures: Sequence[bytes], ttl_s: float) -> None:
        """Takes memory for the pictures of a query, until they are gone or forgotten.

        Raises:
            QueueFull: There is not enough.
        """
        n_bytes = sum(map(len, pictures))
        if n_bytes and not self._reserve(task_id, n_bytes, ttl_s):
            raise QueueFull("The pictures of other queries take all the memory that there is.")

    def forget(self, task_id: str, n_pictures: int) -> None:
        """Removes the pictures of a query that is over."""
        if n_pictures:
            names = [keys.query_picture(task_id, number) for number in range(n_pictures)]
            self._redis.delete(*names)
            self._reserve(task_id, 0, 0)

    def _reserve(self, task_id: str, n_bytes: int, ttl_s: float) -> bool:
        now = time.time()
        args: list[Any] = [task_id, n_bytes, now, now + ttl_s, self._max_bytes]
        return bool(self._script(keys=[keys.SENT, keys.SENT_UNTIL], args=args))
