"""What is begun and not ended took its process with it: so is told which picture does that."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twinlens.shared.redis.jobs import Jobs

# A picture, or a task, that ends its worker process is given up after this many tries.
MAX_TRIES = 3


@contextmanager
def counted_try(jobs: Jobs, job_id: str, part: str) -> Iterator[int]:
    """Yields how often a part of a job was begun, this time with it, and not ended since."""
    n_tries = jobs.begin_try(job_id, part)
    try:
        yield n_tries
    except Exception:
        jobs.end_try(job_id, part)
        raise
    # Not in a `finally`: a time limit ends the process by SystemExit, and that was a try.
    jobs.end_try(job_id, part)
