"""What Celery keeps in Redis: results of tasks, and its queues."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from twinlens.shared.messages import ChunkItems
from twinlens.shared.queue import QUEUES, chunk_task_id
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.messages import Item
    from twinlens.shared.redis.client import Redis


def queue_lengths(client: Redis) -> dict[str, int]:
    """Returns how many tasks wait in each of Celery's queues."""
    with client.pipeline(transaction=False) as pipeline:
        for name in QUEUES:
            pipeline.llen(name)
        return dict(zip(QUEUES, pipeline.execute(), strict=True))


def read_results(client: Redis, task_ids: Sequence[str]) -> list[Any]:
    """Reads what tasks returned, with a plain MGET: nothing is subscribed, nothing blocks.

    Returns:
        One value a task; None where it has not succeeded (yet) or its result has expired.
    """
    if not task_ids:
        return []
    texts = client.mget([keys.result(task_id) for task_id in task_ids])
    metas = [json.loads(text) if text else {} for text in texts]
    return [meta["result"] if meta.get("status") == "SUCCESS" else None for meta in metas]


def read_outcomes(client: Redis, job_id: str, chunks: Sequence[int]) -> list[list[Item]]:
    """Reads outcomes, chunk by chunk; a chunk that is not done has none."""
    ids = [chunk_task_id(job_id, chunk) for chunk in chunks]
    return [ChunkItems.model_validate(items or []).root for items in read_results(client, ids)]
