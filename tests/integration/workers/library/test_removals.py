"""A library is removed whole, whatever fails, and nothing of another that gets its name."""

from __future__ import annotations

import io
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis import ConnectionError as RedisAway
from support.plain_uploads import IDS, PICTURES, ending, outcomes, upload
from support.requests import assert_problem, client_of

from twinlens.api.services import build_services
from twinlens.shared.blobs import image_key, library_key
from twinlens.shared.queue import LIBRARY_TIME_LIMIT_S
from twinlens.shared.redis import keys
from twinlens.shared.redis.feed import Feed
from twinlens.workers.library import removals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.inside_worker import WorkerProcess
    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.settings import Settings


def make(client: Client) -> str:
    """Makes the library, and returns its id."""
    answer = client.put("/v1/libraries/art", json={"models": ["phash"]})
    assert answer.status_code == 201, answer.text
    return str(answer.json["id"])


def remove(client: Client) -> str:
    answer = client.delete("/v1/libraries/art")
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


@pytest.fixture
def art(client: Client, process: WorkerProcess) -> str:
    """A library with pictures, one of which has a thumbnail: its id."""
    library_id = make(client)
    upload(client, "art")
    process.run_all("bulk")
    process.runtime.images.make_thumbnail(library_id, IDS[0])
    return library_id


def files_of(settings: Settings, library_id: str) -> list[Path]:
    folders = (settings.blob_dir / kind / library_id for kind in ("images", "thumbnails"))
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def keys_of(process: WorkerProcess, library_id: str) -> list[str]:
    names: Any = process.runtime.redis.keys(f"*{library_id}*")
    return sorted(names)


def assert_whole(client: Client) -> None:
    """All pictures of the library are there and can be seen."""
    items = client.get("/v1/images?library=art").json["items"]
    assert sorted(item["id"] for item in items) == sorted(IDS)
    for image_id in IDS:
        assert client.get(f"/v1/images/{image_id}/content?library=art").status_code == 200


def test_nothing_is_left_of_a_library_and_others_keep_theirs(
    client: Client, process: WorkerProcess, settings: Settings, filled: list[str], art: str
) -> None:
    assert len(files_of(settings, art)) == len(IDS) + 1
    job_id = remove(client)
    assert_problem(client.get("/v1/libraries/art"), 404, "library-not-found")
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)
    assert not files_of(settings, art)
    assert not keys_of(process, art)
    assert len(files_of(settings, "default")) == len(filled)


def test_a_library_that_gets_the_name_at_once_keeps_its_pictures(
    client: Client, process: WorkerProcess, settings: Settings, art: str
) -> None:
    remove(client)
    other = make(client)
    assert other != art
    upload(client, "art")
    process.run_all("bulk")
    process.run_all("single")  # the removal, which waited
    assert_whole(client)
    assert files_of(settings, art) == []


def test_what_is_posted_to_a_library_never_gets_into_the_next_of_its_name(
    client: Client, process: WorkerProcess, settings: Settings, art: str
) -> None:
    old = upload(client, "art")
    removal = client.delete(f"/v1/images/{IDS[0]}?library=art").json["id"]
    remove(client)
    make(client)
    new = upload(client, "art")
    process.run_all("bulk")
    process.run_all("single")
    assert outcomes(client, old) == ["failed"] * len(IDS)
    assert ending(client, removal) == ("failed", "library-not-found")
    assert outcomes(client, new) == ["succeeded"] * len(IDS)
    assert_whole(client)


def test_a_chunk_that_is_embedded_as_its_library_is_replaced_is_catalogued_nowhere(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(client)
    job_id = upload(client, "art")
    really_write = process.runtime.vectors.upsert

    def replace_first(*args: Any) -> None:
        monkeypatch.setattr(process.runtime.vectors, "upsert", really_write)
        really_write(*args)
        remove(client)
        make(client)

    monkeypatch.setattr(process.runtime.vectors, "upsert", replace_first)
    process.run_all("bulk")
    assert outcomes(client, job_id) == ["failed"] * len(IDS)
    assert client.get("/v1/images?library=art").json["items"] == []


def test_a_new_library_does_not_wait_for_uploads_of_the_one_before(
    client: Client, process: WorkerProcess
) -> None:
    make(client)
    old = process.runtime.jobs.get(upload(client, "art"))
    remove(client)
    make(client)
    assert not process.runtime.jobs.get(old.id).has_ended
    assert process.runtime.catalog.searched("art").indexed_through > old.created_at


def test_a_key_of_the_library_before_is_no_key_of_the_new_one(
    client: Client, worker: StandIn
) -> None:
    worker.serve("phash")

    def post() -> Any:
        raw: dict[str, Any] = {"data": PICTURES["red.png"], "content_type": "image/png"}
        return client.post("/v1/images?library=art", headers={"Idempotency-Key": "k"}, **raw)

    make(client)
    assert post().status_code == post().status_code == 202
    remove(client)
    make(client)
    assert_problem(post(), 422, "idempotency-conflict")


# Whatever fails.


def test_a_removal_that_redis_breaks_off_is_done_all_the_same(
    settings: Settings,
    process: WorkerProcess,
    client: Client,
    art: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services = build_services(settings)

    def break_off(*_: Any) -> None:
        raise RedisAway("reset by peer")

    monkeypatch.setattr(services.catalog, "remove_library", break_off)
    assert client_of(settings, services).delete("/v1/libraries/art").status_code == 503
    process.run_all("single")
    assert_problem(client.get("/v1/libraries/art"), 404, "library-not-found")
    assert not files_of(settings, art)
    assert not keys_of(process, art)


def test_a_removal_that_cannot_be_queued_leaves_the_library(
    settings: Settings, process: WorkerProcess, client: Client, art: str
) -> None:
    services = build_services(settings)

    def break_off(*_: Any) -> None:
        raise RedisAway("reset by peer")

    object.__setattr__(services.publisher, "publish", break_off)
    assert client_of(settings, services).delete("/v1/libraries/art").status_code == 503
    assert_whole(client)
    assert process.queued("single") == []


@pytest.mark.parametrize("error", [PermissionError(13, "not yours"), OSError(39, "not empty")])
def test_pictures_that_cannot_be_removed_are_tried_again(
    client: Client,
    process: WorkerProcess,
    settings: Settings,
    art: str,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    job_id = remove(client)
    with monkeypatch.context() as broken:
        broken.setattr(os, "unlink", refuse)
        process.run_next("single")
    assert client.get(f"/v1/jobs/{job_id}").json["status"] == "running"
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)
    assert files_of(settings, art) == []


def sweep(process: WorkerProcess) -> None:
    process.runtime.redis.delete(keys.SWEEP)
    process.runtime.sweeper.sweep(process.celery)


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    moment = time.time()
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: moment + seconds)


def test_what_is_written_after_a_removal_is_removed_as_well(
    client: Client,
    process: WorkerProcess,
    settings: Settings,
    art: str,
    pass_time: Callable[[float], None],
) -> None:
    entry = process.runtime.catalog.get(art, IDS[0])
    remove(client)
    process.run_all("single")
    process.runtime.blobs.put(image_key(art, IDS[0]), b"late")
    entry.read_as = ""
    assert process.runtime.catalog.put(art, [entry]) == []
    sweep(process)
    assert len(files_of(settings, art)) == 1, "its own task may be at it"
    pass_time(removals.OWN_TASK_S + 1)
    sweep(process)
    assert not files_of(settings, art)
    assert not keys_of(process, art)


def test_a_removed_library_is_looked_after_until_nobody_writes(
    client: Client,
    process: WorkerProcess,
    settings: Settings,
    art: str,
    pass_time: Callable[[float], None],
) -> None:
    old = upload(client, "art")
    remove(client)
    process.run_all("single")
    pass_time(LIBRARY_TIME_LIMIT_S + 1)
    sweep(process)
    process.runtime.blobs.put(image_key(art, IDS[0]), b"late")  # its upload goes on
    process.run_all("bulk")
    assert outcomes(client, old) == ["failed"] * len(IDS)
    for _ in range(2):
        sweep(process)
        assert files_of(settings, art) == []
        assert not process.runtime.redis.exists(keys.REMOVED_LIBRARIES)


def test_a_plan_of_a_removed_library_ends(client: Client, process: WorkerProcess, art: str) -> None:
    job = process.runtime.jobs.get(upload(client, "art")).model_copy(
        update={"id": "plan", "kind": "reindex", "total": None, "n_chunks": 0, "received": 0}
    )
    process.runtime.jobs.create(job)
    remove(client)
    make(client)
    process.runtime.editions.plan(process.celery, "plan")
    assert ending(client, "plan") == ("failed", "library-not-found")
    assert Feed(process.runtime.redis).lost_arrivals() == []


# A library of the time when none had an id.


def test_a_library_of_before_goes_on_under_its_name(
    client: Client, process: WorkerProcess, settings: Settings
) -> None:
    make(client)
    library = process.runtime.catalog.library("art")
    process.runtime.blobs.delete(library_key(library.id))
    record = library.model_dump_json(exclude={"id"})
    process.runtime.redis.hset(keys.LIBRARIES, "art", record)
    upload(client, "art")
    process.run_all("bulk")
    assert_whole(client)
    assert len(files_of(settings, "art")) == len(IDS)
    assert client.put("/v1/libraries/art", json={"models": ["phash"], "weights": {"phash": 2}})
    assert_whole(client)
    remove(client)
    make(client)
    data = {"file": (io.BytesIO(PICTURES["red.png"]), "red.png")}
    assert client.post("/v1/images?library=art", data=data).status_code == 202
    process.run_all("single")
    assert files_of(settings, "art") == []
    assert len(client.get("/v1/images?library=art").json["items"]) == 1
