"""Two bulk worker processes, each on a core of its own, against one."""

from __future__ import annotations

import os
from functools import partial

from benchmarks.photos import Photos
from benchmarks.service import Service, serve
from benchmarks.setup import Results, Setup, medians


def measure(setup: Setup) -> Results:
    """Measures two services by turns. The one that waits takes no core: 2 per cent were seen."""
    photos = Photos()
    write = partial(photos.write, n_photos=setup.size.scaling_photos)
    with (
        serve(setup, "--workers", "1", name="one") as one,
        serve(setup, "--workers", "2", name="two") as two,
    ):
        _pin_workers(one, 1)
        _pin_workers(two, 2)
        rounds = [
            {
                "one": one.index(write(setup.work / f"one-{number}")).searchable_s,
                "two": two.index(write(setup.work / f"two-{number}")).searchable_s,
            }
            for number in range(setup.size.rounds + 1)
        ]
    times = medians(rounds[1:])
    return {
        "two_workers_over_one": times["one"] / times["two"],
        "one_worker_pictures_per_s": setup.size.scaling_photos / times["one"],
        "two_workers_pictures_per_s": setup.size.scaling_photos / times["two"],
    }


def _pin_workers(service: Service, n_expected: int) -> None:
    """Gives each worker process a core; API, Valkey and Milvus run where the system puts them."""
    _, *children = service.processes("worker-bulk")
    if len(children) != n_expected:
        raise SystemExit(f"{len(children)} worker processes instead of {n_expected}")
    for core, child in enumerate(children):
        # Each thread has an affinity of its own; those to come have their maker's.
        for thread in child.threads():
            os.sched_setaffinity(thread.id, {core})
