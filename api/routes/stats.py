"""How much of everything there is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from pydantic import TypeAdapter

from twinlens.api.access.checks import needs
from twinlens.api.answers import answer
from twinlens.api.routes import DEFAULT_PROBLEM
from twinlens.api.schemas import NoParameters
from twinlens.api.services import current_services
from twinlens.shared.answers import (
    Backlog,
    LibraryStats,
    Stats,
)
from twinlens.shared.errors import Unavailable
from twinlens.shared.libraries import Library
from twinlens.shared.messages import WorkerStatus
from twinlens.shared.queue import COUNT_VECTORS
from twinlens.shared.redis.presence import live_workers
from twinlens.shared.redis.results import queue_lengths

if TYPE_CHECKING:
    from twinlens.api.calls import Calls

COUNT_TIMEOUT_S = 5
HOUR_S = 3600

_COUNTS = TypeAdapter(dict[str, int])

stats = APIBlueprint(
    "stats",
    __name__,
    url_prefix="/v1",
    abp_tags=[{"name": "models and libraries"}],
    abp_responses=DEFAULT_PROBLEM,
)


@stats.get("/stats", operation_id="getStats", security=needs("read"), responses={200: Stats})
def get_stats(query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Count images and vectors by library, and what is waiting; list the workers."""
    services = current_services()
    libraries, workers = services.libraries.visible(), live_workers(services.redis)
    vectors = _count_vectors(services.calls, libraries)
    return answer(
        Stats(
            libraries={
                library.name: LibraryStats(
                    images=services.catalog.count(library.id), vectors=vectors.get(library.name)
                )
                for library in libraries
            },
            queues=queue_lengths(services.redis),
            backlog=_backlog_of(services.feed.backlog(), workers),
            rescues=services.jobs.rescues(),
            webhooks=services.webhooks.count(services.settings.webhook_origins),
            workers=workers,
        )
    )


def _backlog_of(n_pictures: int, workers: list[WorkerStatus]) -> Backlog:
    bulk = [worker for worker in workers if "bulk" in worker.lanes]
    busy_s = sum(worker.busy_s for worker in bulk)
    n_done = sum(worker.n_pictures for worker in bulk)
    # The pictures of a process's first chunk are counted before its time is.
    one_per_s = n_done / busy_s if n_done and busy_s else None
    return Backlog(
        pictures=n_pictures,
        pictures_per_s=round(sum(worker.pictures_per_s for worker in bulk), 2),
        process_pictures_per_s=one_per_s and round(one_per_s, 2),
        processes_for_an_hour=one_per_s and math.ceil(n_pictures / one_per_s / HOUR_S),
    )


def _count_vectors(calls: Calls, libraries: list[Library]) -> dict[str, dict[str, int]]:
    """Asks the workers; stops at the first library for which none answers."""
    counts: dict[str, dict[str, int]] = {}
    for library in libraries:
        try:
            reply = calls.call(COUNT_VECTORS, {"library": library.name}, COUNT_TIMEOUT_S)
        except Unavailable:
            break
        if reply.error is None:
            counts[library.name] = _COUNTS.validate_python(reply.value)
    return counts
