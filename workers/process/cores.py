"""How many cores there are to work on."""

from __future__ import annotations

import os


def n_cores() -> int:
    """Returns how many cores we may use, which in a container may be few of many."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
