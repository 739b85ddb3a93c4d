"""What a process has done since it started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """Counts that only ever grow. The heartbeat reports them."""

    n_pictures: int = 0
    n_tasks: int = 0
    busy_s: float = 0.0  # spent on bulk tasks
