"""Redis clients whose every call ends within bounded time, with types that say what it returns."""

# mypy: disable-error-code="override"

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from twinlens.shared.redis.fuse import Fuse
from twinlens.shared.settings import CALLER_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    class Redis(redis.Redis):
        """A client that decodes: redis-py's own types leave open whether it does."""

        @classmethod
        def from_url(cls, url: str, **options: Any) -> Self: ...
        def get(self, name: str) -> str | None: ...
        def mget(self, keys: Iterable[str]) -> list[str | None]: ...
        def hget(self, name: str, key: str) -> str | None: ...
        def hgetall(self, name: str) -> dict[str, str]: ...
        def hmget(self, name: str, keys: Iterable[str]) -> list[str | None]: ...
        def hkeys(self, name: str) -> list[str]: ...
        def hvals(self, name: str) -> list[str]: ...
        def smembers(self, name: str) -> set[str]: ...
        def lrange(self, name: str, start: int, end: int) -> list[str]: ...
        def blpop(self, keys: list[str], timeout: float) -> list[str] | None: ...
        def zrangebyscore(
            self,
            name: str,
            low: str | float,
            high: str | float,
            start: int | None = None,
            num: int | None = None,
        ) -> list[str]: ...
        def zrandmember(self, key: str, count: int) -> list[str]: ...
        def zscan_iter(self, name: str, *, count: int) -> Iterator[tuple[str, float]]: ...
        def xread(
            self, streams: Mapping[str, str], count: int, block: int
        ) -> list[tuple[str, list[tuple[str, dict[str, str]]]]]: ...
        def xrange(self, name: str, low: str, high: str) -> list[tuple[str, dict[str, str]]]: ...

else:
    Redis = redis.Redis
# A client that returns bytes.
RawRedis = redis.Redis

# Retries of a worker, which should outlive a restart of Redis: that takes seconds. Where a caller
# waits, there are few.
WORKER_RETRIES = 8


def connect(url: str, *, n_retries: int = 1) -> Redis:
    """Returns a client that returns text.

    Args:
        url: As in Settings.redis_url.
        n_retries: How often a failed call is tried again.
    """
    return Redis.from_url(url, decode_responses=True, **_limits(n_retries))


def connect_raw(url: str, *, n_retries: int = 1) -> RawRedis:
    """Returns a client that returns bytes, for pictures.

    Args:
        url: As in Settings.redis_url.
        n_retries: How often a failed call is tried again.
    """
    return RawRedis.from_url(url, **_limits(n_retries))


def connect_for_callers(url: str) -> Redis:
    """Returns a client that returns text, for those whose caller waits for an answer.

    Args:
        url: As in Settings.redis_url.
    """
    return Redis.from_url(url, decode_responses=True, **caller_options())


def caller_options() -> dict[str, Any]:
    """Returns the options of a client whose caller waits for an answer."""
    timeouts = {"socket_timeout": CALLER_TIMEOUT_S, "socket_connect_timeout": 1}
    return {**timeouts, "health_check_interval": 30, "retry": Fuse()}


def _limits(n_retries: int) -> dict[str, Any]:
    return {
        "socket_timeout": 5,
        "socket_connect_timeout": 1,
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=2, base=0.05), n_retries),
        "retry_on_error": [redis.ConnectionError, redis.TimeoutError],
    }
