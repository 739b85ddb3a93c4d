"""Idempotency keys: the same key with the same request gives the same job, for a day.

Where the job's life is over before, as a search's is after an hour, the key is free again.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import request
from redis import WatchError

from twinlens.api.access.checks import current_grant
from twinlens.shared.errors import IdempotencyConflict, UploadInProgress
from twinlens.shared.redis import keys
from twinlens.shared.redis.scripts import ARRIVAL_TTL_S

if TYPE_CHECKING:
    from twinlens.shared.redis.client import Redis

KEY_TTL_S = 86_400


class KeyOwner(NamedTuple):
    """What a key stands for."""

    job_id: str
    fingerprint: str  # empty while the first request is still arriving


class IdempotencyKeys:
    """Binds callers' keys to requests and their jobs."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def claim(self, key: str, job_id: str, fingerprint: str) -> KeyOwner:
        """Binds a key to a request and its job, unless it is already bound.

        Args:
            key: The key, scoped.
            job_id: The job.
            fingerprint: The request's; empty while it is still arriving (then call `settle`).

        Returns:
            What the key stands for: this job, or an earlier one.

        Raises:
            UploadInProgress: The earlier request is still arriving.
        """
        ttl_s = KEY_TTL_S if fingerprint else ARRIVAL_TTL_S
        mine = f"{fingerprint}:{job_id}"
        stored: Any = self._redis.set(keys.idempotency(key), mine, nx=True, ex=ttl_s, get=True)
        earlier, _, owner = (stored or mine).rpartition(":")
        if owner != job_id and not earlier:
            raise UploadInProgress(
                "The first request with this Idempotency-Key is still arriving; try again later."
            )
        return KeyOwner(owner, earlier)

    def renew(self, key: str) -> None:
        """Records that a key's request is still arriving."""
        self._redis.expire(keys.idempotency(key), ARRIVAL_TTL_S)

    def settle(self, key: str, job_id: str, fingerprint: str) -> None:
        """Records which request a key was claimed for."""
        self._redis.set(keys.idempotency(key), f"{fingerprint}:{job_id}", ex=KEY_TTL_S)

    def release(self, key: str) -> None:
        """Frees a key: its request came to nothing."""
        self._redis.delete(keys.idempotency(key))

    def release_from(self, key: str, owner: KeyOwner) -> None:
        """Frees a key of a job that is over, unless it stands for another by now."""
        with self._redis.pipeline() as pipeline:
            pipeline.watch(keys.idempotency(key))  # type: ignore[no-untyped-call]
            if pipeline.get(keys.idempotency(key)) != f"{owner.fingerprint}:{owner.job_id}":
                return
            pipeline.multi()
            pipeline.delete(keys.idempotency(key))
            with contextlib.suppress(WatchError):
                pipeline.execute()


def check_same_request(owner: KeyOwner, fingerprint: str) -> None:
    """Refuses a key that stands for another request.

    Raises:
        IdempotencyConflict: It stands for another request.
    """
    if owner.fingerprint != fingerprint:
        raise IdempotencyConflict(
            "This Idempotency-Key was sent with another request; use a new key for this one."
        )


def scoped_key(key: str | None) -> str | None:
    """Returns what a key of this request is stored under.

    Callers choose them: two may choose the same, or one may send it to two endpoints.
    """
    if key is None:
        return None
    scope = f"{current_grant().id} {request.method} {request.path}"
    return hashlib.sha256(f"{scope}\n{key}".encode()).hexdigest()
