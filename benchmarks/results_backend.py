"""What it costs that Celery's result backend ends a search: `python -m benchmarks.results_backend`.

On one Valkey, in turn: a result of 10 hits stored as Celery does once a task has returned, and by
the script alone, as if the task had ended its job itself. Medians of many runs.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from celery.app.task import Context
from support.servers import running_valkey

from benchmarks.setup import time_s
from twinlens.shared.messages import Image, now
from twinlens.shared.queries import (
    Agreement,
    Hit,
    ModelHit,
    RankedImage,
    SearchResult,
    SearchTiming,
)
from twinlens.shared.queue import SEARCH
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import connect
from twinlens.shared.redis.jobs import Job, Jobs, StoredResult

N_RUNS = 500
N_WARM = 50
N_HITS = 10
MODELS = ("efficientnet-lite0", "efficientnet-lite2", "phash")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_valkey(Path(folder)) as url:
        os.environ["TWINLENS_REDIS_URL"] = url  # which the app reads as it is imported
        from twinlens.workers.process.app import celery_app  # noqa: PLC0415

        celery_app.loader.import_default_modules()  # the tasks, as a worker does
        backend: Any = celery_app.backend
        result = make_result()
        with connect(url) as redis:
            jobs = Jobs(redis)
            script_s, backend_s = [], []
            for _ in range(N_WARM + N_RUNS):
                script_s.append(time_s(partial(by_script, jobs, begun(jobs), result)))
                backend_s.append(time_s(partial(by_backend, backend, begun(jobs), result)))
    script_ms, backend_ms = (
        statistics.median(some[N_WARM:]) * 1000 for some in (script_s, backend_s)
    )
    print(f"script: {script_ms:.2f} ms, backend: {backend_ms:.2f} ms")
    print(f"a search waits {backend_ms - script_ms:.2f} ms longer")


def begun(jobs: Jobs) -> str:
    job = Job(id=uuid.uuid4().hex, kind="search", library="default", created_at=now(), ttl_s=60)
    jobs.create(job)
    jobs.begin(job.id)
    return job.id


def by_script(jobs: Jobs, job_id: str, result: SearchResult) -> None:
    text = f'{{"status": "SUCCESS", "result": {result.model_dump_json()}}}'
    jobs.finish(job_id, stored=StoredResult(keys.result(job_id), text))


def by_backend(backend: Any, job_id: str, result: SearchResult) -> None:
    request = Context({"task": SEARCH, "id": job_id}, args=(), kwargs={}, called_directly=False)
    backend.mark_as_done(job_id, result, request)


def make_result() -> SearchResult:
    ids = [f"{place:064x}" for place in range(N_HITS)]
    views = {name: ModelHit(rank=1, distance=0.5, score=0.9) for name in MODELS}
    images = [
        Image(
            id=image_id,
            name="photo.jpg",
            library="default",
            width=500,
            height=375,
            format="image/jpeg",
            bytes=30_000,
            models=[f"{name}@1" for name in MODELS],
            added_at=now(),
        )
        for image_id in ids
    ]
    ranked = [RankedImage(rank=place, image_id=one, distance=0.5) for place, one in enumerate(ids)]
    return SearchResult(
        hits=[Hit(rank=1, score=0.9, image=image, models=views) for image in images],
        library_images=len(images),
        by_model=dict.fromkeys(MODELS, ranked),
        agreement=Agreement(overlap_at_k=0.5, rank_correlation=0.5),
        indexed_through=now(),
        timing_ms=SearchTiming(queued=1, decode=1, embed=1, search=1, fuse=1, total=5),
    )


if __name__ == "__main__":
    main()
