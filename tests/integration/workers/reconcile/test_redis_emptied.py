"""Redis is emptied, and all that was in a library is as it was: nothing is embedded again."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.clocks import Clock
from support.plain_uploads import IDS, PICTURES, upload
from support.reconciled import check, differences, reconcile
from support.requests import assert_problem, form_body, post
from support.servers import wait_until
from support.tiny_pair import plain_picture
from support.uploading import manifests_of

from twinlens.shared.blobs import CLOCK_TICK_S, image_key
from twinlens.shared.messages import Description
from twinlens.shared.redis import keys
from twinlens.workers.process.runtime import summary_of

if TYPE_CHECKING:
    from pathlib import Path

    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.settings import Settings

LOST = "Redis has lost its images; run `twinlens reconcile`."
TOLD = {"name": "mine.png", "metadata": {"year": 2026, "tags": ["a", "b"]}}


def empty_redis(process: WorkerProcess) -> None:
    """Empties Redis; workers go on, and tell it what they know."""
    process.runtime.redis.flushall()
    process.runtime.publish()


def records(client: Client, library: str = "default") -> list[dict[str, Any]]:
    items = client.get(f"/v1/images?library={library}&sort=added_at").json["items"]
    return sorted(items, key=lambda one: str(one["id"]))


def libraries(client: Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get("/v1/libraries").json["items"]
    return items


def finds_itself(client: Client, process: WorkerProcess, image_id: str, where: str = "") -> bool:
    asked = {"image_id": image_id, "include_query": True, **({"filter": where} if where else {})}
    job = client.post("/v1/search", json=asked).json
    process.run_all("search")
    hits = client.get(job["links"]["self"]).json["result"]["hits"]
    return bool(hits) and hits[0]["image"]["id"] == image_id


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"allowed_roots": [tmp_path]})


@pytest.fixture(autouse=True)
def _kept(process: WorkerProcess) -> None:
    """The default library was made by hand."""
    process.runtime.catalog.keep_libraries()


@pytest.fixture
def told(client: Client, process: WorkerProcess) -> list[dict[str, Any]]:
    """The default library, one of its images changed by PATCH, one removed: its records."""
    upload(client)
    process.run_all("bulk")
    change = process.runtime.amendments.change
    change("default", IDS[0], Description.model_validate(TOLD))
    client.delete(f"/v1/images/{IDS[2]}")
    process.run_all("single")
    told = records(client)
    assert len(told) == 2
    return told


def test_all_is_as_it_was_and_nothing_is_embedded_again(
    client: Client, process: WorkerProcess, settings: Settings, told: list[dict[str, Any]]
) -> None:
    before = libraries(client)
    n_embedded = process.runtime.counts.n_pictures
    empty_redis(process)
    assert libraries(client) == [one | {"has_lost_images": True} for one in before]
    lacks = assert_problem(client.get("/readyz"), 503, "unavailable")["errors"]
    assert {"location": "library:default", "message": LOST} in lacks
    assert records(client) == []
    assert check(client, process) == {"default": {"not_catalogued": (2, 0, 0)}}
    assert records(client) == []

    [job] = reconcile(client, process)
    assert differences(job) == {"not_catalogued": (2, 2, 0)}
    assert sorted(job["result"]["differences"]["not_catalogued"]["examples"]) == [
        "green.png",
        "mine.png",
    ]
    assert records(client) == told
    assert process.runtime.counts.n_pictures == n_embedded
    assert libraries(client) == before
    assert finds_itself(client, process, IDS[0], 'year == 2026 and name == "mine.png"')
    assert check(client, process) == {}
    assert manifests_of(settings) == [], "what they said is in the journal"

    empty_redis(process)
    reconcile(client, process)
    assert records(client) == told


def put(client: Client, process: WorkerProcess, *models: str) -> None:
    assert client.put("/v1/libraries/art", json={"models": models}).status_code in {201, 202}
    for queue in ("single", "bulk"):
        process.run_all(queue)


def test_a_library_comes_back_with_both_its_editions(
    client: Client, process: WorkerProcess
) -> None:
    put(client, process, "phash")
    upload(client, "art")
    process.run_all("bulk")
    put(client, process, "phash", "efficientnet-lite0")
    library, told = process.runtime.catalog.library("art"), records(client, "art")
    assert library.previous is not None
    n_embedded = process.runtime.counts.n_pictures
    process.runtime.redis.flushall()
    process.runtime.catalog.publish_models(())  # no worker has looked after it yet

    [job] = [one for one in reconcile(client, process) if one["library"] == "art"]
    assert differences(job) == {"not_catalogued": (3, 3, 0)}
    assert process.runtime.catalog.library("art") == library
    assert records(client, "art") == told
    assert process.runtime.counts.n_pictures == n_embedded
    assert client.post("/v1/libraries/art/rollback").status_code == 200
    assert check(client, process) == {}


def test_a_name_that_is_asked_for_first_is_that_of_the_library_that_was_there(
    client: Client, process: WorkerProcess
) -> None:
    put(client, process, "phash")
    before = process.runtime.catalog.library("art")
    process.runtime.redis.flushall()
    process.runtime.catalog.publish_models(map(summary_of, process.runtime.registry.cards()))
    assert client.put("/v1/libraries/art", json={"models": ["phash"]}).status_code == 200
    assert process.runtime.catalog.library("art") == before, "it had no images"


def test_what_was_accepted_and_not_embedded_is_embedded_as_it_was_sent(
    client: Client, process: WorkerProcess
) -> None:
    said = ("metadata", (None, json.dumps({"n": 1}), "application/json"))
    files = [said, *(("files", (name, content)) for name, content in PICTURES.items())]
    client.post("/v1/images/bulk", **form_body(files))
    empty_redis(process)
    [job] = reconcile(client, process)
    assert differences(job) == {"not_catalogued": (3, 0, 3)}
    assert job["progress"]["succeeded"] == 3
    told = {one["name"]: one["metadata"] for one in records(client)}
    assert told == {"red.png": {"n": 1}, "green.png": {}, "blue.png": {}}
    assert finds_itself(client, process, IDS[0], "n == 1")
    assert check(client, process) == {}


def test_the_journal_knows_what_jobs_had_whose_life_is_over(
    client: Client,
    process: WorkerProcess,
    settings: Settings,
    told: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    clock.ahead_s = settings.job_ttl_s + 60
    process.runtime.redis.delete(keys.SWEEP)
    process.runtime.sweeper.sweep(process.celery)
    assert manifests_of(settings) == []
    empty_redis(process)
    reconcile(client, process)
    assert records(client) == told


def test_what_was_cancelled_stays_so_and_what_was_done_by_then_stays(
    client: Client, process: WorkerProcess
) -> None:
    pictures = [(f"{n}.png", plain_picture((n, 100, 200))) for n in range(6)]
    job_id = post(client, pictures)
    process.run_next("bulk")
    assert client.post(f"/v1/jobs/{job_id}/cancel").json["status"] == "cancelled"
    told = records(client)
    assert len(told) == 4
    empty_redis(process)
    [job] = reconcile(client, process)
    assert differences(job) == {"not_catalogued": (4, 4, 0), "orphans": (2, 0, 0)}
    assert records(client) == told


def test_a_removal_that_was_planned_is_not_undone(
    client: Client, process: WorkerProcess, told: list[dict[str, Any]]
) -> None:
    ids = [one["id"] for one in told]
    wait_until(lambda: not is_of_this_moment(process, ids), 5)
    client.post("/v1/images/delete", json={"ids": ids[:1]})
    process.run_all("single")
    empty_redis(process)
    [job] = reconcile(client, process)
    assert differences(job) == {"not_catalogued": (1, 1, 0), "half_removed": (1, 1, 0)}
    assert records(client) == told[1:]
    assert process.runtime.images.count_vectors("default") == {"phash": 1}
    assert check(client, process) == {}


def is_of_this_moment(process: WorkerProcess, ids: list[str]) -> bool:
    """Tells if bytes may seem newer than a removal that is asked for now: their clock ticks."""
    times = [process.runtime.blobs.touched_at(image_key("default", one)) or 0 for one in ids]
    return time.time() < max(times) + 2 * CLOCK_TICK_S


def test_an_image_that_was_removed_and_posted_again_has_nothing_of_before(
    client: Client, process: WorkerProcess, told: list[dict[str, Any]]
) -> None:
    assert told
    client.delete(f"/v1/images/{IDS[0]}")
    process.run_all("single")
    post(client, [("again.png", PICTURES["red.png"])])
    process.run_all("bulk")
    now = records(client)
    empty_redis(process)
    reconcile(client, process)
    assert records(client) == now
    [again] = [one for one in now if one["id"] == IDS[0]]
    assert (again["name"], again["metadata"]) == ("again.png", {})


def test_what_came_since_redis_was_emptied_stays_as_it_is(
    client: Client, process: WorkerProcess, told: list[dict[str, Any]]
) -> None:
    empty_redis(process)
    post(client, [("again.png", PICTURES["red.png"]), ("new.png", plain_picture("black"))])
    process.run_all("bulk")
    since = {one["id"]: one for one in records(client)}
    [job] = reconcile(client, process)
    assert differences(job) == {"not_catalogued": (1, 1, 0)}
    assert {one["id"]: one for one in records(client)} == {one["id"]: one for one in told} | since


def test_pictures_that_failed_fail_again(client: Client, process: WorkerProcess) -> None:
    post(client, [("broken.png", b"no picture"), *PICTURES.items()])
    process.run_all("bulk")
    empty_redis(process)
    [job] = reconcile(client, process)
    assert differences(job) == {"not_catalogued": (4, 3, 1)}
    assert (job["status"], job["progress"]["failed"]) == ("failed", 1)


def test_listed_pictures_are_fetched_if_they_were_not(
    client: Client, process: WorkerProcess, tmp_path: Path
) -> None:
    for name, content in PICTURES.items():
        (tmp_path / "listed" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "listed" / name).write_bytes(content)
    lines = [
        json.dumps({"uri": f"file://{tmp_path}/listed/{name}", "name": name, "metadata": {"n": n}})
        for n, name in enumerate(PICTURES)
    ]
    listing = {"content_type": "application/x-ndjson"}
    for some in (lines[:2], lines[2:]):
        answer = client.post("/v1/images/bulk", data="\n".join(some), **listing)
        assert answer.status_code == 202, answer.text
        if len(some) == 2:
            process.run_all("bulk")
    empty_redis(process)
    [job] = reconcile(client, process)
    assert differences(job) == {"not_catalogued": (3, 2, 1)}
    assert {one["name"]: one["metadata"]["n"] for one in records(client)} == {
        name: n for n, name in enumerate(PICTURES)
    }
