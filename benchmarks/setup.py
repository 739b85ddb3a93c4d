"""What every measurement gets: where to work, which models, and how much to do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twinlens.models.cores import n_cores

N_CORES = n_cores()
Results = dict[str, float]


@dataclass(frozen=True)
class Size:
    """How much is done. Times are medians of rounds, and percentiles are of all rounds together."""

    rounds: int = 5
    photos: int = 256  # of a bulk job
    scaling_photos: int = 1024  # the same, where the last chunk of one worker counts the most
    seed_photos: int = 24  # embedded as the article did, a round
    short_rounds: int = 15  # of what takes a second
    model_photos: int = 32
    library: int = 1_024  # pictures that are searched
    searches: int = 400
    block_searches: int = 60  # in one block, idle or under load
    backlog: int = 1_000  # pictures posted before a block under load
    zip_photos: int = 20_800
    early: int = 1_000  # pictures of a worker process, when its memory is compared
    late: int = 10_000
    requests: int = 160  # to a peer, by a number of clients, a round


FULL = Size()
QUICK = Size(
    rounds=1,
    photos=128,
    scaling_photos=128,
    seed_photos=3,
    short_rounds=3,
    model_photos=8,
    library=64,
    searches=20,
    block_searches=10,
    backlog=200,
    zip_photos=600,
    early=50,
    late=250,
    requests=32,
)


@dataclass(frozen=True)
class Setup:
    """Where and how much. `work` is empty, and gone afterwards; `models` has the shipped models."""

    work: Path
    models: Path
    size: Size


def time_s(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def medians(rounds: list[Results]) -> Results:
    """Returns the median over all rounds, of each number that a round has."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def percentile(values: list[float], per_cent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[per_cent - 1]
