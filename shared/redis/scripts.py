"""The changes that run inside Redis, where nothing comes between: `lua/`, one file each.

So two workers never disagree about a job, and its progress, the queue's backlog and the stream of
its events always agree.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, get_args

from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.redis.client import Redis

# An expired job still answers 410 for this long, before its id is forgotten (404). Searches come by
# the thousand.
TOMBSTONE_S = 30 * 86_400
SEARCH_TOMBSTONE_S = 86_400
# The rate is an average whose weights fall by a factor of e in this time: that of a few chunks with
# a slow model.
RATE_WINDOW_S = 30
# An upload that has been silent for this long has lost its API process, which says that it is still
# there every 2 s, whatever its client and its disk do.
ARRIVAL_TTL_S = 20

JobChange = Literal["begin", "try", "finish", "cancel", "add_chunk", "seal", "count", "compare"]


@functools.cache
def read_script(*names: str) -> str:
    """Returns a script made of these files of `lua/`, in this order."""
    folder = resources.files(__package__) / "lua"
    return "".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names)


class Changes:
    """Changes of job records, each in one step."""

    def __init__(self, redis: Redis) -> None:
        self._scripts = {
            name: redis.register_script(read_script("release", "job", name))
            for name in get_args(JobChange)
        }

    def make(
        self, name: JobChange, job_id: str, *args: str | int, keys_too: Sequence[str] = ()
    ) -> int:
        """Makes a change of a job.

        Args:
            name: The script.
            job_id: The job.
            args: Its ARGV from 6 on.
            keys_too: Its KEYS from 12 on.

        Returns:
            What the script returns.
        """
        made: Any = self._scripts[name](keys=[*_keys_of(job_id), *keys_too], args=[*_ARGS, *args])
        return int(made)


def _keys_of(job_id: str) -> list[str]:
    """Returns KEYS 1 to 11 of each change of a job."""
    return [
        keys.job(job_id),
        keys.events(job_id),
        keys.done_chunks(job_id),
        keys.tries(job_id),
        keys.ARRIVING,
        keys.TASKS,
        keys.FED,
        keys.BACKLOG,
        keys.RING,
        keys.SENT,
        keys.SENT_UNTIL,
    ]


# ARGV 1 to 5 of each change of a job.
_ARGS = (
    keys.open_uploads("*"),
    keys.jobs_in_turn("*"),
    TOMBSTONE_S,
    SEARCH_TOMBSTONE_S,
    RATE_WINDOW_S,
)
