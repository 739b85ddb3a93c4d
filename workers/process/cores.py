"""How many cores we may use."""

from __future__ import annotations

import os


def n_cores() -> int:
    """Returns how many cores we may use; in a container, maybe only some of the machine's."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
