"""Tasks, from real messages: what becomes of them, what callers are told, and what binds them."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.plain_uploads import IDS, PICTURES, codes, ending, job_of, outcomes, upload
from support.requests import counts, post
from support.tiny_pair import plain_picture

from twinlens.shared import log
from twinlens.shared.blobs import image_key
from twinlens.shared.libraries import new_library
from twinlens.shared.messages import now
from twinlens.shared.queue import (
    COMPARE,
    COUNT_VECTORS,
    DELETE_IMAGE,
    DELETE_LIBRARY,
    EMBED_CHUNK,
    FIND_DUPLICATES,
    LIBRARY_TIME_LIMIT_S,
    MAKE_THUMBNAIL,
    REINDEX,
    SEARCH,
    SEARCH_TIME_LIMIT_S,
    Reply,
)
from twinlens.shared.redis import keys
from twinlens.shared.redis.jobs import Job
from twinlens.shared.settings import Settings
from twinlens.workers.process import sweeper

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client


def test_pictures_for_a_model_that_is_not_there_fail_one_by_one(
    client: Client, process: WorkerProcess
) -> None:
    process.runtime.catalog.ensure_library(new_library("odd", ["nonesuch@1"]))
    job_id = upload(client, "odd")
    process.run_all("bulk")
    assert codes(client, job_id) == ["model-not-found"] * 3
    assert ending(client, job_id) == ("failed", "model-not-found")
    assert job_of(client, job_id)["error"]["detail"].startswith("All 3 pictures failed: ")
    assert process.queued("bulk") == []


def test_a_chunk_whose_manifest_is_broken_ends_its_job(
    client: Client, process: WorkerProcess, settings: Settings
) -> None:
    job_id = upload(client)
    [manifest] = [
        path for path in settings.blob_dir.rglob("*") if job_id in str(path) and path.is_file()
    ]
    manifest.write_bytes(b"rubbish")
    process.run_next("bulk")
    assert ending(client, job_id) == ("failed", "internal")
    assert "rubbish" not in json.dumps(job_of(client, job_id))


def test_a_removed_picture_fails_alone(client: Client, process: WorkerProcess) -> None:
    job_id = upload(client)
    process.runtime.blobs.delete(image_key("default", IDS[1]))
    process.run_all("bulk")
    assert codes(client, job_id) == [None, "content-missing", None]


def test_a_chunk_that_comes_twice_is_counted_once(client: Client, process: WorkerProcess) -> None:
    job_id = post(client, [*PICTURES.items(), ("again.png", PICTURES["red.png"])])
    expected = ["succeeded", "succeeded", "succeeded", "skipped"]
    process.celery.send_task(
        EMBED_CHUNK, kwargs={"job_id": job_id, "chunk": 0}, task_id=f"{job_id}.0", queue="bulk"
    )
    assert len(process.queued("bulk")) == 2
    for _ in range(2):
        process.run_next("bulk")
        assert outcomes(client, job_id) == expected
    assert counts(job_of(client, job_id)) == {
        "total": 4,
        "succeeded": 3,
        "skipped": 1,
        "failed": 0,
    }


def test_a_chunk_of_an_ended_job_makes_room_for_another(
    client: Client, process: WorkerProcess
) -> None:
    job_id = upload(client)
    process.runtime.jobs.cancel(job_id)
    process.run_next("bulk")
    assert process.runtime.redis.zcard(keys.FED) == 0
    assert process.runtime.catalog.count("default") == 0


def test_a_task_of_an_ended_job_does_nothing(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    removal = client.delete(f"/v1/images/{filled[0]}")
    comparison = client.post("/v1/duplicates", json={})
    for answer in (removal, comparison):
        process.runtime.jobs.cancel(answer.json["id"])
        process.run_next("single")
        assert ending(client, answer.json["id"]) == ("cancelled", None)
    assert client.get(f"/v1/images/{filled[0]}").status_code == 200


def test_the_next_chunk_is_queued_when_one_is_done(client: Client, process: WorkerProcess) -> None:
    colours = [(f"{n}.png", plain_picture(f"#{n:06x}")) for n in range(20)]
    job_id = post(client, colours)
    for n in range(5):
        expected = [f"{job_id}.{chunk}" for chunk in range(n, min(n + 2, 5))]
        assert process.queued("bulk") == expected, "two are on their way, without a worker"
        process.run_next("bulk")
    assert job_of(client, job_id)["progress"]["succeeded"] == 20


def test_a_search_that_cannot_be_done_says_why(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    job_id = client.post("/v1/search", json={"image_id": filled[0]}).json["id"]
    process.runtime.catalog.remove("default", filled[0])
    process.run_next("search")
    assert ending(client, job_id) == ("failed", "image-not-found")


@pytest.mark.parametrize("content", [None, b"no picture"], ids=["done", "refused"])
def test_the_pictures_of_a_search_go_with_it(
    client: Client,
    process: WorkerProcess,
    filled: list[str],
    small_photos: dict[str, bytes],
    content: bytes | None,
) -> None:
    sent = content or small_photos["coffee.png"]
    data = {"file": [(io.BytesIO(sent), "a"), (io.BytesIO(sent), "b")]}
    job_id = client.post("/v1/search", data=data).json["id"]
    redis = process.runtime.redis
    assert len(redis.keys("tl:query:*")) == 2
    assert redis.hget(keys.SENT, "all") == str(2 * len(sent))
    process.run_next("search")
    assert job_of(client, job_id)["status"] == ("failed" if content else "succeeded")
    assert redis.keys("tl:query:*") == []
    assert redis.hgetall(keys.SENT) == {}


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "cancelled"])
def test_the_pictures_of_a_search_that_is_never_done_go_as_well(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """They would fill the memory that there is for others' pictures for ten minutes."""
    monkeypatch.setattr(sweeper, "MIN_AGE_S", 0)
    others = client.post("/v1/search", data={"file": (io.BytesIO(b"others"), "a")}).json["id"]
    process.take("search")
    job_id = client.post("/v1/search", data={"file": (io.BytesIO(b"picture"), "a")}).json["id"]
    if is_lost:
        process.lose("search")
        process.runtime.sweeper.sweep(process.celery)
    else:
        assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    assert job_of(client, job_id)["status"] == ("failed" if is_lost else "cancelled")
    redis = process.runtime.redis
    assert redis.keys("tl:query:*") == [keys.query_picture(others)]
    assert redis.hgetall(keys.SENT) == {others: "6", "all": "6"}
    assert redis.zrange(keys.SENT_UNTIL, 0, -1) == [others]


def test_a_fault_of_ours_is_told_without_its_inside(process: WorkerProcess) -> None:
    kwargs = {"job_id": "j", "query": {"k": "many"}, "submitted_at": 0.0, "sent": [1, 0]}
    process.runtime.jobs.create(
        Job(id="j", kind="search", library="default", created_at=now(), ttl_s=60)
    )
    process.celery.send_task(SEARCH, kwargs=kwargs, task_id="j", queue="search")
    process.run_next("search")
    job = process.runtime.jobs.get("j")
    assert job.error is not None
    assert job.error.type.endswith(":internal")
    assert "many" not in job.error.model_dump_json()


@pytest.mark.parametrize("ask", ["search", "duplicates"])
def test_a_result_is_kept_with_its_job(
    client: Client, process: WorkerProcess, filled: list[str], ask: str
) -> None:
    body = {"image_id": filled[0]} if ask == "search" else {}
    job_id = client.post(f"/v1/{ask}", json=body).json["id"]
    process.run_all("search")
    process.run_all("single")
    assert ending(client, job_id) == ("succeeded", None)
    assert ("hits" if ask == "search" else "groups") in job_of(client, job_id)["result"]


def test_a_removal_ends_its_job(client: Client, process: WorkerProcess, filled: list[str]) -> None:
    job_id = client.delete(f"/v1/images/{filled[0]}").json["id"]
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)
    assert client.get(f"/v1/images/{filled[0]}").status_code == 404


def call(process: WorkerProcess, name: str, kwargs: dict[str, Any]) -> None:
    process.celery.send_task(name, kwargs=kwargs, task_id="call", queue="search")


def answer_of(process: WorkerProcess) -> Reply:
    [text] = process.runtime.redis.lrange(keys.reply("call"), 0, -1)
    return Reply.model_validate_json(text)


def test_a_caller_is_answered_once_and_the_answer_does_not_stay(
    process: WorkerProcess, filled: list[str]
) -> None:
    call(process, COUNT_VECTORS, {"library": "default"})
    process.run_next("search")
    assert answer_of(process) == Reply(value={"phash": 3})
    assert 0 < process.runtime.redis.ttl(keys.reply("call")) <= 60
    assert not process.runtime.redis.exists(keys.result("call"))


def test_a_caller_is_told_what_is_not_there(process: WorkerProcess, filled: list[str]) -> None:
    call(process, MAKE_THUMBNAIL, {"library_id": "default", "image_id": "0" * 64})
    process.run_next("search")
    error = answer_of(process).error
    assert error is not None
    assert error.type.endswith(":image-not-found")


# What each task is bound by.

LIMITS = {
    EMBED_CHUNK: Settings().chunk_time_limit_s,
    DELETE_IMAGE: Settings().chunk_time_limit_s,
    SEARCH: SEARCH_TIME_LIMIT_S,
    COMPARE: SEARCH_TIME_LIMIT_S,
    COUNT_VECTORS: SEARCH_TIME_LIMIT_S,
    MAKE_THUMBNAIL: SEARCH_TIME_LIMIT_S,
    REINDEX: LIBRARY_TIME_LIMIT_S,
    DELETE_LIBRARY: LIBRARY_TIME_LIMIT_S,
    FIND_DUPLICATES: LIBRARY_TIME_LIMIT_S,
}


@pytest.mark.parametrize("name", LIMITS)
def test_every_task_is_bound_in_time_and_outlives_its_process(
    process: WorkerProcess, name: str
) -> None:
    task = process.celery.tasks[name]
    assert task.time_limit == LIMITS[name]
    assert task.acks_late
    assert task.reject_on_worker_lost
    # Celery's result backend ends a job, or counts a chunk of it; a call has none.
    assert task.ignore_result == (name in {COMPARE, COUNT_VECTORS, MAKE_THUMBNAIL})
    waits = {EMBED_CHUNK, DELETE_IMAGE, DELETE_LIBRARY, REINDEX, FIND_DUPLICATES}
    assert (task.max_retries is None) == (name in waits)


def test_the_limits_of_time_fit_each_other() -> None:
    settings = Settings()
    assert settings.milvus_timeout_s < SEARCH_TIME_LIMIT_S < settings.chunk_time_limit_s
    assert settings.chunk_time_limit_s < LIBRARY_TIME_LIMIT_S


def test_a_process_counts_what_it_has_done(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    held = process.runtime.counts
    assert (held.n_tasks, held.n_pictures) == (1, 3)
    busy_s = held.busy_s
    assert busy_s > 0
    client.post("/v1/search", json={"image_id": filled[0]})
    process.run_next("search")
    assert (held.n_tasks, held.n_pictures, held.busy_s) == (2, 3, busy_s)


def test_what_a_task_logs_names_the_request(client: Client, process: WorkerProcess) -> None:
    body: dict[str, Any] = {"data": PICTURES["red.png"], "content_type": "image/png"}
    client.post("/v1/images", headers={"X-Request-ID": "abc"}, **body)
    log.request_id.set("-")  # another process
    process.run_next("single")
    assert log.request_id.get() == "abc"
