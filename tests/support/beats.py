"""What a worker process says of itself."""

from __future__ import annotations

from typing import Any

from twinlens.shared.messages import WorkerStatus


def beat(name: str, beat_at: float, **told: Any) -> WorkerStatus:
    """Returns a heartbeat, of the bulk lane and without work done unless something else is told."""
    idle = {
        "lanes": ["bulk"],
        "milvus": "ok",
        "n_pictures": 0,
        "pictures_per_s": 0,
        "tasks_per_s": 0,
        "busy_s": 0,
    }
    return WorkerStatus.model_validate(idle | told | {"name": name, "beat_at": beat_at})
