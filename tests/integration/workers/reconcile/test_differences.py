"""What one store lacks comes back from the others; what is nowhere else goes; the rest is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.clocks import Clock
from support.every_milvus import on_every_milvus
from support.inside_worker import WorkerProcess, serve_only, worker_process
from support.plain_uploads import IDS, PICTURES, upload
from support.reconciled import check, differences, reconcile
from support.requests import post
from support.tiny_pair import plain_picture

from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.messages import Description
from twinlens.workers.milvus import vectors
from twinlens.workers.reconcile import shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.requests import Client

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings
    from twinlens.workers.milvus.collection import Collection

DAY_S = 86_400
BYTES = b"nobody names it"
NOBODY = image_id_of(BYTES)


@pytest.fixture
def process(
    settings: Settings, redis: Redis, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkerProcess]:
    """A worker's process that reaches each Milvus there is."""
    settings.data_dir.joinpath("models").symlink_to(models_dir)
    serve_only(redis, "phash@1")
    with worker_process(settings, monkeypatch) as process:
        process.runtime.catalog.keep_libraries()
        yield process


def collection_of(process: WorkerProcess) -> Collection:
    [(_, collection)] = process.runtime.targets.of(process.runtime.catalog.library("default"))
    return collection


def in_milvus(process: WorkerProcess) -> set[str]:
    return process.runtime.vectors.ids(collection_of(process))


def in_catalogue(process: WorkerProcess) -> dict[str, dict[str, Any]]:
    entries = process.runtime.catalog.all_entries("default")
    return {one.image.id: one.image.model_dump() for one in entries}


def hits(client: Client, process: WorkerProcess, image_id: str, where: str) -> list[str]:
    asked = {"image_id": image_id, "include_query": True, "filter": where}
    job = client.post("/v1/search", json=asked).json
    process.run_all("search")
    return [hit["image"]["id"] for hit in client.get(job["links"]["self"]).json["result"]["hits"]]


@pytest.fixture
def patched(client: Client, process: WorkerProcess) -> dict[str, dict[str, Any]]:
    """The plain pictures, embedded, one of them with other metadata since: their records."""
    upload(client)
    process.run_all("bulk")
    said = Description(name="mine.png", metadata={"year": 2026})
    process.runtime.amendments.change("default", IDS[0], said)
    return in_catalogue(process)


@on_every_milvus
def test_what_milvus_has_lost_is_embedded_again(
    client: Client, process: WorkerProcess, patched: dict[str, dict[str, Any]]
) -> None:
    process.runtime.vectors.drop(collection_of(process).name)
    process.runtime.sweeper.damages.look()
    assert client.post("/v1/images", data=b"x", content_type="image/png").status_code == 503
    assert check(client, process) == {"default": {"not_embedded": (3, 0, 0)}}
    assert not process.runtime.vectors.has(collection_of(process).name)

    [job] = reconcile(client, process)
    assert differences(job) == {"not_embedded": (3, 0, 3)}
    assert (job["progress"]["succeeded"], job["progress"]["compared"]) == (3, 3)
    assert in_catalogue(process) == patched
    assert in_milvus(process) == set(IDS)
    assert hits(client, process, IDS[0], "year == 2026") == [IDS[0]]
    assert check(client, process) == {}


@on_every_milvus
def test_a_row_that_is_missing_is_embedded_and_no_other(
    client: Client, process: WorkerProcess, patched: dict[str, dict[str, Any]]
) -> None:
    process.runtime.vectors.delete(collection_of(process), IDS[:1])
    n_embedded = process.runtime.counts.n_pictures
    [job] = reconcile(client, process)
    assert differences(job) == {"not_embedded": (1, 0, 1)}
    assert job["result"]["differences"]["not_embedded"]["examples"] == ["mine.png"]
    assert process.runtime.counts.n_pictures == n_embedded + 1
    assert in_milvus(process) == set(IDS)
    assert in_catalogue(process) == patched
    assert check(client, process) == {}


@on_every_milvus
def test_both_may_have_lost_all(
    client: Client, process: WorkerProcess, patched: dict[str, dict[str, Any]]
) -> None:
    process.runtime.vectors.drop(collection_of(process).name)
    process.runtime.redis.flushall()
    process.runtime.publish()
    [job] = reconcile(client, process)
    assert differences(job) == {"not_catalogued": (3, 0, 3)}
    after = in_catalogue(process)
    assert after[IDS[0]] == patched[IDS[0]], "what the journal knows"
    for image_id in IDS:
        del after[image_id]["added_at"], patched[image_id]["added_at"]
    assert after == patched
    assert hits(client, process, IDS[0], "year == 2026") == [IDS[0]]
    assert check(client, process) == {}


@on_every_milvus
def test_what_is_in_milvus_alone_goes(
    client: Client, process: WorkerProcess, patched: dict[str, dict[str, Any]]
) -> None:
    rows = np.zeros((1, 8), np.uint8)
    process.runtime.vectors.upsert(collection_of(process), [NOBODY], rows, [{}])
    assert check(client, process) == {"default": {"stray_vectors": (1, 0, 0)}}
    [job] = reconcile(client, process)
    assert differences(job) == {"stray_vectors": (1, 1, 0)}
    assert in_milvus(process) == patched.keys()
    assert check(client, process) == {}


def test_bytes_that_nothing_names_go_if_that_is_asked_for_and_they_are_old(
    client: Client,
    process: WorkerProcess,
    patched: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    blobs = process.runtime.blobs
    blobs.put(image_key("default", NOBODY), BYTES)
    clock.ahead_s = DAY_S - 600
    for asked in ({}, {"remove_orphans": True}, {"remove_orphans": True, "check": True}):
        [job] = reconcile(client, process, **asked)
        assert differences(job) == {"orphans": (1, 0, 0)}
        assert job["result"]["differences"]["orphans"]["examples"] == [NOBODY]
    clock.ahead_s = DAY_S + 600
    [job] = reconcile(client, process)
    assert differences(job) == {"orphans": (1, 0, 0)}
    [job] = reconcile(client, process, remove_orphans=True)
    assert differences(job) == {"orphans": (1, 1, 0)}
    assert blobs.touched_at(image_key("default", NOBODY)) is None
    for image_id in patched:
        assert blobs.touched_at(image_key("default", image_id)) is not None


def test_an_image_whose_bytes_are_lost_is_told_and_stays(
    client: Client, process: WorkerProcess, patched: dict[str, dict[str, Any]]
) -> None:
    process.runtime.blobs.delete(image_key("default", IDS[0]))
    for _ in range(2):
        [job] = reconcile(client, process)
        assert differences(job) == {"no_content": (1, 0, 0)}
        assert job["result"]["differences"]["no_content"]["examples"] == ["mine.png"]
    assert in_catalogue(process) == patched
    assert in_milvus(process) == set(IDS)
    post(client, [("red.png", PICTURES["red.png"])])
    process.run_all("bulk")
    assert check(client, process) == {}


def test_a_check_changes_nothing(
    client: Client, process: WorkerProcess, patched: dict[str, dict[str, Any]], settings: Settings
) -> None:
    blobs, milvus = process.runtime.blobs, process.runtime.vectors
    post(client, [("lost.png", plain_picture("black"))])
    process.run_all("bulk")
    catalogue = in_catalogue(process)
    blobs.put(image_key("default", NOBODY), BYTES)
    blobs.delete(image_key("default", IDS[1]))
    milvus.delete(collection_of(process), IDS[:1])
    milvus.upsert(collection_of(process), [NOBODY[::-1]], np.zeros((1, 8), np.uint8), [{}])

    def state() -> Any:
        files = [path for path in settings.blob_dir.rglob("*") if path.is_file()]
        return in_milvus(process), in_catalogue(process), {one: one.read_bytes() for one in files}

    before = state()
    assert check(client, process) == {
        "default": {"no_content": (1, 0, 0), "not_embedded": (1, 0, 0)}
        | {"orphans": (1, 0, 0), "stray_vectors": (1, 0, 0)}
    }
    assert state() == before
    assert before[1] == catalogue
    assert patched


def test_a_large_library_is_compared_part_by_part(
    client: Client,
    process: WorkerProcess,
    patched: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "SMALL", 0)
    monkeypatch.setattr(vectors, "MAX_ROWS", 2)
    process.runtime.redis.flushall()
    process.runtime.publish()
    process.runtime.blobs.put(image_key("default", NOBODY), BYTES)
    process.runtime.vectors.delete(collection_of(process), IDS[1:2])
    [job] = reconcile(client, process)
    assert differences(job) == {"not_catalogued": (3, 2, 1), "orphans": (1, 0, 0)}
    assert job["progress"]["compared"] == 4
    assert in_catalogue(process).keys() == patched.keys() == in_milvus(process)


# Whoever does something at the same time is not overruled.


def meanwhile(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]
) -> None:
    """Has something happen once, when differences are known, and before they are repaired."""
    comparing = process.runtime.reconciling.comparing
    really_compare = type(comparing).compare

    def compare(*args: Any) -> Any:
        monkeypatch.setattr(type(comparing), "compare", really_compare)
        seen = really_compare(*args)
        change()
        return seen

    monkeypatch.setattr(type(comparing), "compare", compare)


def delete(client: Client, process: WorkerProcess, ids: list[str]) -> None:
    assert client.post("/v1/images/delete", json={"ids": ids}).status_code == 202
    for queue in ("single", "bulk"):
        process.run_all(queue)


@pytest.mark.parametrize("lost", ["redis", "milvus", "both"])
def test_what_is_removed_meanwhile_stays_removed(
    client: Client,
    process: WorkerProcess,
    patched: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    assert patched
    if lost != "redis":
        process.runtime.vectors.drop(collection_of(process).name)
    if lost != "milvus":
        process.runtime.redis.flushall()
        process.runtime.publish()
    meanwhile(process, monkeypatch, lambda: delete(client, process, IDS[:1]))
    reconcile(client, process)
    assert in_catalogue(process).keys() == set(IDS[1:])
    assert in_milvus(process) == set(IDS[1:])
    assert client.get(f"/v1/images/{IDS[0]}").status_code == 404


@pytest.mark.parametrize("lost", ["milvus", "both"])
def test_what_is_changed_meanwhile_stays_changed(
    client: Client,
    process: WorkerProcess,
    patched: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    assert patched
    process.runtime.vectors.drop(collection_of(process).name)
    if lost == "both":
        process.runtime.redis.flushall()
        process.runtime.publish()

    def change() -> None:
        if lost == "both":
            post(client, [("other.png", PICTURES["red.png"])])
            process.run_next("bulk")
        said = Description(name="other.png", metadata={"n": 7})
        process.runtime.amendments.change("default", IDS[0], said)

    meanwhile(process, monkeypatch, change)
    reconcile(client, process)
    after = in_catalogue(process)
    assert after.keys() == set(IDS)
    assert (after[IDS[0]]["name"], after[IDS[0]]["metadata"]) == ("other.png", {"n": 7})
    assert hits(client, process, IDS[0], "n == 7") == [IDS[0]]
    assert check(client, process) == {}


def test_what_is_posted_meanwhile_is_no_orphan_and_no_stray(
    client: Client,
    process: WorkerProcess,
    patched: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = image_id_of(plain_picture("black"))
    process.runtime.vectors.upsert(collection_of(process), [new], np.zeros((1, 8), np.uint8), [{}])

    def change() -> None:
        post(client, [("new.png", plain_picture("black"))])
        process.run_all("bulk")

    meanwhile(process, monkeypatch, change)
    [job] = reconcile(client, process, remove_orphans=True)
    assert differences(job) == {"stray_vectors": (1, 0, 0)}
    assert in_catalogue(process).keys() == in_milvus(process) == {*patched, new}


def test_uploads_that_are_open_are_left_alone(client: Client, process: WorkerProcess) -> None:
    upload(client)
    assert client.post("/v1/reconcile", json={"check": True}).status_code == 202
    process.run_all("single")
    told = client.get("/v1/jobs?kind=reconcile").json["items"][0]
    [job] = [client.get(told["links"]["self"]).json]
    assert differences(job) == {}


# Whatever dies.


def test_a_comparison_that_was_stopped_half_way_is_done_again(
    client: Client,
    process: WorkerProcess,
    patched: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "SMALL", 0)
    process.runtime.redis.flushall()
    process.runtime.publish()
    process.runtime.vectors.delete(collection_of(process), [min(IDS)])
    jobs = process.runtime.jobs
    really_note = type(jobs).note_compared

    def stop_at_the_last(self: Any, job_id: str, n_images: int) -> bool:
        if n_images == len(IDS):
            monkeypatch.setattr(type(jobs), "note_compared", really_note)
            raise SystemExit
        return really_note(self, job_id, n_images)

    monkeypatch.setattr(type(jobs), "note_compared", stop_at_the_last)
    [job] = reconcile(client, process)
    assert job["status"] == "succeeded"
    assert in_catalogue(process).keys() == patched.keys() == in_milvus(process)
    assert check(client, process) == {}


def test_a_comparison_can_be_cancelled(
    client: Client,
    process: WorkerProcess,
    patched: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert patched
    process.runtime.redis.flushall()
    process.runtime.publish()

    def cancel() -> None:
        [job] = client.get("/v1/jobs?kind=reconcile").json["items"]
        assert client.post(f"{job['links']['self']}/cancel").status_code == 200

    meanwhile(process, monkeypatch, cancel)
    [job] = reconcile(client, process)
    assert (job["status"], job["result"]) == ("cancelled", None)
    assert in_catalogue(process) == {}
    [job] = reconcile(client, process)
    assert in_catalogue(process).keys() == patched.keys()
