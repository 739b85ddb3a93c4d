"""Once Redis has not answered, one call at a time tries it; all others fail at once.

Else each call of a silent Redis would wait for the whole timeout, with a connection of its own.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable


class Fuse(Retry):
    """What redis-py sends every call through, of one client.

    A connection that is broken, as after a restart of Redis, is made anew once. A silent one is not
    tried again: its caller has waited long enough.
    """

    def __init__(self) -> None:
        super().__init__(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self._is_blown = False
        self._trial = threading.Lock()
        self._tried_by: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns itself: each connection copies its Retry, and all of them have one fuse."""
        return self

    def call_with_retry(self, do: Callable[[], Any], *args: Any, **options: Any) -> Any:
        """Makes a call, as redis-py's own does.

        Raises:
            redis.TimeoutError: Redis does not answer, or did not just now.
        """
        try:
            # A call may have to connect first.
            if not self._is_blown or self._tried_by == threading.get_ident():
                return super().call_with_retry(do, *args, **options)
            return self._try(do, *args, **options)
        except redis.TimeoutError:
            self._is_blown = True
            raise

    def _try(self, do: Callable[[], Any], *args: Any, **options: Any) -> Any:
        if not self._trial.acquire(blocking=False):
            raise redis.TimeoutError("Redis did not answer just now.")
        try:
            self._tried_by = threading.get_ident()
            answer = super().call_with_retry(do, *args, **options)
            self._is_blown = False
            return answer
        finally:
            self._tried_by = None
            self._trial.release()
