"""What a process has done since it started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """Only ever grows. The heartbeat tells it."""

    n_pictures: int = 0
    n_tasks: int = 0
    busy_s: float = 0.0  # with bulk tasks
