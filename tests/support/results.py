"""What tasks came to, as Celery's result backend keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.shared.messages import ChunkItems
from twinlens.shared.queue import chunk_task_id
from twinlens.shared.redis import keys
from twinlens.shared.redis.jobs import StoredResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.messages import Item


def stored_result(task_id: str, result: str) -> StoredResult:
    """Returns a result, given as JSON, with the key that it is kept under."""
    text = f'{{"task_id": "{task_id}", "status": "SUCCESS", "result": {result}}}'
    return StoredResult(keys.result(task_id), text)


def stored_items(job_id: str, chunk: int, items: Sequence[Item]) -> StoredResult:
    """Returns the outcomes of a chunk with the key that they are kept under."""
    return stored_result(chunk_task_id(job_id, chunk), ChunkItems(list(items)).model_dump_json())
