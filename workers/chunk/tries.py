"""Counts tries that began and never ended, to learn which picture ends its worker process."""

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
    """Yields how often a part of a job was begun and not ended since, including this time."""
    n_tries = jobs.begin_try(job_id, part)
    try:
        yield n_tries
    except Exception:
        jobs.end_try(job_id, part)
        raise
    # Not in a `finally`: a time limit ends the process by SystemExit, and that counts as a try.
    jobs.end_try(job_id, part)
