"""Searches, one after another: what the service adds to them, and what a bulk upload does."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.photos import Photos
from benchmarks.service import Service, post_search, serve
from benchmarks.setup import Results, Setup, percentile

STAGES = ("queued", "decode", "embed", "search", "fuse", "rerank")
# What a search is, wherever it runs; all else is what the service adds.
WORK = ("decode", "embed", "search", "rerank")
# The first ones warm the connection.
N_WARM = 5


class Search(NamedTuple):
    """One search: the whole as its caller sees it, and the stages that its answer names."""

    whole_ms: float
    stages_ms: dict[str, float]

    @property
    def overhead_ms(self) -> float:
        return self.whole_ms - sum(self.stages_ms[stage] for stage in WORK)


def measure(setup: Setup) -> Results:
    """Measures searches in an idle service, then idle and busy in turn."""
    photos, size = Photos(), setup.size
    with serve(setup) as service:
        service.index(photos.write(setup.work / "library", size.library))
        _search_all(service, photos, N_WARM)
        results = _stages(_search_all(service, photos, size.searches))
        return results | _bulk_over_idle(setup, service, photos)


def _search_all(service: Service, photos: Photos, n_searches: int) -> list[Search]:
    return [_search(service, photos.take()) for _ in range(n_searches)]


def _search(service: Service, content: bytes) -> Search:
    request = service.client.build_request("POST", "/v1/search", files={"file": ("q", content)})
    body, content_type = request.read(), request.headers["Content-Type"]
    started = time.perf_counter()
    text = post_search(service.connection, body, content_type)
    whole_ms = (time.perf_counter() - started) * 1000
    return Search(whole_ms, json.loads(text)["result"]["timing_ms"])


def _stages(searches: list[Search]) -> Results:
    whole_ms = [one.whole_ms for one in searches]
    overhead_ms = [one.overhead_ms for one in searches]
    return {
        "search_p50_ms": statistics.median(whole_ms),
        "search_p95_ms": percentile(whole_ms, 95),
        "search_overhead_p50_ms": statistics.median(overhead_ms),
        "search_overhead_p99_ms": percentile(overhead_ms, 99),
        **{
            f"search_{stage}_p50_ms": statistics.median(one.stages_ms[stage] for one in searches)
            for stage in STAGES
        },
    }


def _bulk_over_idle(setup: Setup, service: Service, photos: Photos) -> Results:
    idle: list[Search] = []
    busy: list[Search] = []
    n_photos = setup.size.backlog
    for number in range(setup.size.rounds):
        idle += _search_all(service, photos, setup.size.block_searches)
        folder = setup.work / f"backlog-{number}"
        while not (searches := _busy_block(setup, service, photos, photos.write(folder, n_photos))):
            n_photos *= 2
        busy += searches
    idle_ms, busy_ms = (percentile([s.whole_ms for s in block], 95) for block in (idle, busy))
    return {
        "search_p95_bulk_over_idle": busy_ms / idle_ms,
        "search_p95_idle_ms": idle_ms,
        "search_p95_bulk_ms": busy_ms,
    }


def _busy_block(
    setup: Setup, service: Service, photos: Photos, backlog: list[Path]
) -> list[Search]:
    """Searches while a bulk job runs; nothing where the job ended before the searches did."""
    job = service.post_photos(backlog)
    searches = _search_all(service, photos, setup.size.block_searches)
    is_busy = service.look(job)["finished_at"] is None
    service.wait(job, len(backlog))
    return searches if is_busy else []
