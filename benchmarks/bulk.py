"""A bulk job, accepted → all searchable, against the bare loop on the same cores."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from benchmarks.bare import BareLoop
from benchmarks.photos import Photos
from benchmarks.service import Service, serve
from benchmarks.setup import Results, Setup, medians, time_s

WORKERS = "worker-bulk"


def measure(setup: Setup) -> Results:
    """Measures speed, and CPU time a picture, of the bulk workers and of the bare loop."""
    photos, n_photos = Photos(), setup.size.photos
    with serve(setup) as service, closing(BareLoop(setup.models)) as bare:
        _round(service, bare, photos.write(setup.work / "warm", n_photos))
        rounds = [
            _round(service, bare, photos.write(setup.work / f"round-{number}", n_photos))
            for number in range(setup.size.rounds)
        ]
    times = medians(rounds)
    return {
        "bulk_pictures_per_s": n_photos / times["bulk_s"],
        "bare_pictures_per_s": n_photos / times["bare_s"],
        "bulk_over_bare": times["bare_s"] / times["bulk_s"],
        "worker_cpu_over_bare": times["worker_cpu_s"] / times["bare_cpu_s"],
        "bulk_accept_s": times["accept_s"],
    }


def _round(service: Service, bare: BareLoop, photos: list[Path]) -> Results:
    bare_cpu_s, worker_cpu_s = bare.cpu_s(), service.cpu_s(WORKERS)
    bare_s = time_s(lambda: bare.run(photos))
    indexed = service.index(photos)
    return {
        "bare_s": bare_s,
        "bare_cpu_s": bare.cpu_s() - bare_cpu_s,
        "bulk_s": indexed.searchable_s,
        "worker_cpu_s": service.cpu_s(WORKERS) - worker_cpu_s,
        "accept_s": indexed.accept_s,
    }
