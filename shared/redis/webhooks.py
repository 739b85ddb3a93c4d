"""Webhooks that are owed: since when, and what became of each try.

    job ends ─▶ due in its host's line ─▶ claimed ─▶ delivered | failed
                        ▲                    │
                        └────── pending ─────┘

A job comes into its line in the very step that ends it (shared/redis/lua/job.lua).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from twinlens.shared.answers import WebhookStats
from twinlens.shared.redis import keys
from twinlens.shared.redis.scripts import read_script

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twinlens.shared.messages import WebhookStatus
    from twinlens.shared.origins import Origin
    from twinlens.shared.redis.client import Redis

# What a worker has taken and not settled by then is due again. A try takes 10 s.
LEASE_S = 20.0


class Try(NamedTuple):
    """What became of a try to deliver a webhook."""

    status: WebhookStatus
    error: str = ""
    due_at: float = 0.0  # while it is pending: Unix time of the next try, in seconds


class OwedWebhooks:
    """The lines of hosts that are to be told of the ends of jobs."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.register_script(read_script("claim"))
        self._settle = redis.register_script(read_script("settle"))

    def claim(self, origin: Origin) -> str | None:
        """Takes a job whose webhook is due at a host, for LEASE_S."""
        moment = time.time()
        line = keys.webhook_line(str(origin))
        job_id: Any = self._claim(keys=[line], args=[moment, moment + LEASE_S])
        return None if job_id is None else str(job_id)

    def settle(self, origin: Origin, job_id: str, tried: Try) -> None:
        """Notes what became of a try. Of a job that has no record any more, nothing is left."""
        names = [keys.webhook_line(str(origin)), keys.job(job_id), keys.WEBHOOKS]
        self._settle(keys=names, args=[job_id, tried.status, tried.error, repr(tried.due_at)])

    def count(self, origins: Iterable[Origin]) -> WebhookStats:
        """Counts what hosts are to be told, and what became of the rest."""
        lines = [keys.webhook_line(str(origin)) for origin in origins]
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(keys.WEBHOOKS)
            for line in lines:
                pipeline.zcard(line)
            counted, *waiting = pipeline.execute()
        return WebhookStats(
            pending=sum(waiting),
            delivered=counted.get("delivered", 0),
            retried=counted.get("retried", 0),
            failed=counted.get("failed", 0),
        )
