"""Memory of the API while 2 GB stream through it, and of the workers over 10,000 pictures."""

from __future__ import annotations

import statistics
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from benchmarks.photos import Photos
from benchmarks.service import Job, Service, serve
from benchmarks.setup import Results, Setup

# Of this size and quality a photo has 97 kB, and `zip_photos` of them 2 GB.
SIZE_PX, QUALITY = (1024, 768), 85
N_ORIGINALS = 200
N_WARM = 256
API_EVERY_S = 0.05
WORKERS_EVERY_S = 2.0  # as often as a worker says how many pictures it has embedded
N_NEAREST = 5
BYTES_PER_MB = 1_000_000

T = TypeVar("T")
# By process: pictures embedded so far, and resident bytes.
Workers = dict[int, tuple[int, int]]


def measure(setup: Setup) -> Results:
    """Posts one large archive, and watches both sides until all its pictures are searchable."""
    size, photos = setup.size, Photos(N_ORIGINALS, SIZE_PX, QUALITY)
    small, large = (setup.work / name for name in ("small.zip", "large.zip"))
    _write_zip(small, photos, N_WARM)
    _write_zip(large, photos, size.zip_photos)
    with serve(setup) as service:
        service.wait(_post_zip(service, small), N_WARM)
        before = service.rss_bytes("api")
        with Sampler(WORKERS_EVERY_S, lambda: _watch_workers(service)) as workers:
            with Sampler(API_EVERY_S, lambda: service.rss_bytes("api")) as api:
                job = _post_zip(service, large)
            service.wait(job, size.zip_photos)
    return {
        "api_rss_growth_mb": (max(api.samples) - before) / BYTES_PER_MB,
        "worker_rss_growth": _growth(workers.samples, size.early, size.late),
        "memory_zip_mb": large.stat().st_size / BYTES_PER_MB,
    }


def _write_zip(path: Path, photos: Photos, n_photos: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(n_photos):
            archive.writestr(f"{number:06d}.jpg", photos.take())


def _post_zip(service: Service, path: Path) -> Job:
    with path.open("rb") as file:
        return service.post_bulk(content=file, headers={"Content-Type": "application/zip"})


def _watch_workers(service: Service) -> Workers:
    stats = service.client.get("/v1/stats").raise_for_status().json()
    n_pictures = {
        int(one["name"].rpartition(":")[2]): one["n_pictures"] for one in stats["workers"]
    }
    processes = service.processes("worker-bulk")
    return {
        one.pid: (n_pictures[one.pid], one.memory_info().rss)
        for one in processes
        if one.pid in n_pictures
    }


def _growth(samples: list[Workers], early: int, late: int) -> float:
    """Returns memory at the late picture over that at the early one, the median over processes."""
    by_process: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for sample in samples:
        for pid, seen in sample.items():
            by_process[pid].append(seen)
    return statistics.median(
        _rss_at(seen, late) / _rss_at(seen, early) for seen in by_process.values()
    )


def _rss_at(seen: list[tuple[int, int]], n_pictures: int) -> float:
    nearest = sorted(seen, key=lambda one: abs(one[0] - n_pictures))[:N_NEAREST]
    return statistics.median(rss for _, rss in nearest)


class Sampler(threading.Thread, Generic[T]):
    """Looks at something again and again, in a thread, as long as its `with` block runs."""

    def __init__(self, every_s: float, look: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._every_s = every_s
        self._look = look
        self._is_over = threading.Event()
        self._error: Exception | None = None
        self.samples: list[T] = []

    def run(self) -> None:
        try:
            while not self._is_over.wait(self._every_s):
                self.samples.append(self._look())
        except Exception as error:  # noqa: BLE001 (it is raised where the block ends)
            self._error = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self.join()
        if error is None and self._error is not None:
            raise self._error
