"""A library gets other models, or another metric, while it is searched and filled."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.embedding import delete_image, library_id, outcomes, set_anew, targets_of
from support.every_milvus import on_every_milvus
from support.photos import NAMES
from support.requests import assert_problem, counts, post
from support.tiny_pair import COLOURS, plain_picture

from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.errors import LibraryNotFound, Unavailable
from twinlens.shared.queries import SearchQuery
from twinlens.shared.queue import make_celery
from twinlens.workers.library import editions

if TYPE_CHECKING:
    from celery import Celery
    from support.requests import Client

    from twinlens.shared.settings import Settings
    from twinlens.workers.process.runtime import Runtime

pytestmark = on_every_milvus

LITE0, PHASH = "efficientnet-lite0", "phash"
LITE0_REF, PHASH_REF = "efficientnet-lite0@1-int8", "phash@1"


@pytest.fixture
def filled(client: Client, runtime: Runtime, small_photos: dict[str, bytes]) -> dict[str, str]:
    """A library `art` of one model with the small photos: image ids by name."""
    assert put(client, [LITE0]).status_code == 201
    job_id = post(client, list(small_photos.items()), library="art")
    assert outcomes(runtime, job_id) == ["succeeded"] * len(NAMES)
    return {name: image_id_of(content) for name, content in small_photos.items()}


def put(client: Client, models: list[str], **plan: Any) -> Any:
    return client.put("/v1/libraries/art", json={"models": models, **plan})


def record(client: Client) -> Any:
    return client.get("/v1/libraries/art").json


def plan(runtime: Runtime, settings: Settings, job_id: str) -> int:
    """Plans a job as its task does. Returns how many chunks it has."""
    runtime.editions.plan(make_celery(settings), job_id)
    return runtime.jobs.get(job_id).n_chunks


def run(runtime: Runtime, settings: Settings, job_id: str) -> list[str]:
    """Does all of a job's work. Returns the outcomes."""
    n_chunks = plan(runtime, settings, job_id)
    return [one for chunk in range(n_chunks) for one in outcomes(runtime, job_id, chunk)]


def search_with(runtime: Runtime, image_id: str) -> tuple[set[str], set[str]]:
    """Searches with a stored image. Returns which images, and which models answered."""
    query = SearchQuery(library="art", image_id=image_id)
    result = runtime.searches.search("q", query, time.time())
    return {hit.image.id for hit in result.hits}, set(result.by_model)


def n_vectors(runtime: Runtime) -> dict[str, int]:
    """Returns how many vectors there are, by model, in the edition that is being built."""
    edition = runtime.catalog.library("art").next
    assert edition is not None
    return {
        target.model.card.name: runtime.vectors.count(target.collection)
        for target in runtime.targets.of(edition)
    }


def test_a_model_is_added_while_the_library_is_searched_and_filled(
    client: Client, runtime: Runtime, settings: Settings, filled: dict[str, str]
) -> None:
    coffee, others = filled["coffee.png"], {i for n, i in filled.items() if n != "coffee.png"}
    job = put(client, [LITE0, PHASH], weights={PHASH: 0.2})
    assert (job.status_code, job.json["kind"], job.json["library"]) == (202, "reindex", "art")
    job_id = job.json["id"]
    assert record(client)["models"] == [LITE0_REF]
    assert record(client)["next"]["job_id"] == job_id
    assert search_with(runtime, coffee) == (others, {LITE0})

    n_chunks = plan(runtime, settings, job_id)
    assert outcomes(runtime, post(client, [("red", plain_picture("red"))], "art")) == ["succeeded"]
    others.add(image_id_of(plain_picture("red")))
    assert n_vectors(runtime) == {LITE0: 5, PHASH: 1}, "new pictures are embedded for both"
    for chunk in range(n_chunks):
        assert search_with(runtime, coffee) == (others, {LITE0})
        assert outcomes(runtime, job_id, chunk) == ["succeeded"] * 4
    ended = client.get(f"/v1/jobs/{job_id}").json
    assert ended["status"] == "succeeded"
    assert counts(ended) == {"total": 4, "succeeded": 4, "skipped": 0, "failed": 0}
    assert search_with(runtime, coffee) == (others, {LITE0, PHASH})
    after = record(client)
    assert (after["models"], after["weights"]) == ([LITE0_REF, PHASH_REF], {PHASH: 0.2})
    assert after["next"] is None
    image = client.get(f"/v1/images/{coffee}?library=art").json
    assert image["models"] == [LITE0_REF, PHASH_REF]
    assert image["name"] == "coffee.png"
    own = f'name == "coffee.png" and added_at == "{image["added_at"]}"'
    query = SearchQuery(library="art", image_id=coffee, include_query=True, filter=own)
    by_model = runtime.searches.search("q", query, time.time()).by_model
    assert {name: [one.image_id for one in some] for name, some in by_model.items()} == {
        LITE0: [coffee],
        PHASH: [coffee],
    }


def test_going_back_loses_nothing_that_came_since(
    client: Client, runtime: Runtime, settings: Settings, filled: dict[str, str]
) -> None:
    job_id = put(client, [PHASH]).json["id"]
    run(runtime, settings, job_id)
    assert search_with(runtime, filled["coffee.png"])[1] == {PHASH}
    outcomes(runtime, post(client, [("red", plain_picture("red"))], "art"))
    back = client.post("/v1/libraries/art/rollback")
    assert (back.status_code, back.json["models"]) == (200, [LITE0_REF])
    ids, models = search_with(runtime, filled["coffee.png"])
    assert models == {LITE0}
    assert image_id_of(plain_picture("red")) in ids
    assert client.post("/v1/libraries/art/rollback").json["models"] == [PHASH_REF]


def test_another_metric_takes_new_collections_of_float_models_alone(
    client: Client, runtime: Runtime, settings: Settings, filled: dict[str, str]
) -> None:
    run(runtime, settings, put(client, [LITE0, PHASH]).json["id"])
    before = record(client)["collections"]
    run(runtime, settings, put(client, [LITE0, PHASH], metric="COSINE").json["id"])
    after = record(client)["collections"]
    assert before[PHASH_REF] == after[PHASH_REF]
    assert before[LITE0_REF] != after[LITE0_REF]
    query = SearchQuery(library="art", image_id=filled["coffee.png"])
    cosine = runtime.searches.search("q", query, time.time()).by_model[LITE0]
    assert client.post("/v1/libraries/art/rollback").json["metric"] is None
    squared = runtime.searches.search("q", query, time.time()).by_model[LITE0]
    assert [one.image_id for one in cosine] == [one.image_id for one in squared]
    for near, far in zip(cosine, squared, strict=True):
        assert far.distance == pytest.approx(2 - 2 * near.distance, abs=1e-3)


def test_a_picture_that_is_on_its_way_when_the_plan_comes_is_embedded_for_it(
    client: Client,
    runtime: Runtime,
    settings: Settings,
    filled: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upsert = runtime.vectors.upsert
    jobs: list[str] = []

    def plan_first(*args: Any) -> None:
        if not jobs:
            jobs.append(put(client, [LITE0, PHASH]).json["id"])
            run(runtime, settings, jobs[0])  # all that is catalogued by now
        upsert(*args)

    monkeypatch.setattr(runtime.vectors, "upsert", plan_first)
    late = post(client, [(colour, plain_picture(colour)) for colour in COLOURS], library="art")
    assert outcomes(runtime, late) == ["succeeded"] * 3
    assert record(client)["models"] == [LITE0_REF, PHASH_REF]
    for target in targets_of(runtime, "art"):
        assert runtime.vectors.count(target.collection) == 7


def test_a_picture_that_is_removed_meanwhile_stays_removed(
    client: Client,
    runtime: Runtime,
    settings: Settings,
    filled: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = put(client, [LITE0, PHASH]).json["id"]
    assert plan(runtime, settings, job_id) == 1
    remove(client, runtime, filled["rocket.jpg"])
    upsert = runtime.vectors.upsert

    def remove_another(*args: Any) -> None:
        if len(runtime.catalog.find(library_id(runtime, "art"), list(filled.values()))) == 3:
            remove(client, runtime, filled["coffee.png"])
        upsert(*args)

    monkeypatch.setattr(runtime.vectors, "upsert", remove_another)
    assert outcomes(runtime, job_id).count("skipped") == 1
    assert client.get(f"/v1/jobs/{job_id}").json["status"] == "succeeded"
    for target in targets_of(runtime, "art"):
        assert runtime.vectors.count(target.collection) == 2
    assert client.get(f"/v1/images/{filled['coffee.png']}?library=art").status_code == 404


def test_vectors_that_come_between_an_images_and_its_records_removal_go_too(
    client: Client, runtime: Runtime, filled: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, [LITE0, PHASH])
    edition = runtime.catalog.library("art").next
    assert edition is not None
    forget = runtime.catalog.remove

    def write_first(library: str, image_id: str) -> None:
        for _, collection in runtime.targets.of(edition, [PHASH_REF]):
            runtime.vectors.upsert(collection, [image_id], [np.zeros(8, np.uint8)], [{}])
        forget(library, image_id)

    monkeypatch.setattr(runtime.catalog, "remove", write_first)
    remove(client, runtime, filled["coffee.png"])
    assert n_vectors(runtime) == {LITE0: 3, PHASH: 0}


def remove(client: Client, runtime: Runtime, image_id: str) -> None:
    job_id = client.delete(f"/v1/images/{image_id}?library=art").json["id"]
    delete_image(runtime, job_id, image_id)


def test_a_library_stays_as_it_was_if_a_picture_cannot_be_embedded(
    client: Client, runtime: Runtime, settings: Settings, filled: dict[str, str]
) -> None:
    runtime.blobs.delete(image_key(library_id(runtime, "art"), filled["rocket.jpg"]))
    job_id = put(client, [LITE0, PHASH]).json["id"]
    assert plan(runtime, settings, job_id) == 1
    edition = runtime.catalog.library("art").next
    assert outcomes(runtime, job_id).count("failed") == 1
    job = client.get(f"/v1/jobs/{job_id}").json
    assert (job["status"], counts(job)["failed"]) == ("failed", 1)
    assert job["error"]["type"].endswith(":reindex-failed")
    after = record(client)
    assert (after["models"], after["next"]) == ([LITE0_REF], None)
    assert len(search_with(runtime, filled["coffee.png"])[0]) == 3
    runtime.editions.tend()
    assert edition is not None
    [gone] = set(edition.collections.values()) - set(after["collections"].values())
    assert not runtime.vectors.has(gone)


def test_vectors_that_are_missing_are_seen_before_the_switch(
    client: Client,
    runtime: Runtime,
    settings: Settings,
    filled: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(editions, "LOOK_PAUSE_S", 0)
    upsert = runtime.vectors.upsert
    monkeypatch.setattr(
        runtime.vectors,
        "upsert",
        lambda to, *rows: upsert(to, *(row[1:] for row in map(list, rows))),
    )
    job_id = put(client, [PHASH]).json["id"]
    run(runtime, settings, job_id)
    job = client.get(f"/v1/jobs/{job_id}").json
    assert job["status"] == "failed"
    assert "3 of 4 pictures" in job["error"]["detail"]


def test_one_plan_at_a_time(
    client: Client, runtime: Runtime, settings: Settings, filled: dict[str, str]
) -> None:
    first = put(client, [PHASH])
    again = put(client, [PHASH])
    assert (again.status_code, again.json["id"]) == (202, first.json["id"])
    problem = assert_problem(put(client, [LITE0, PHASH]), 409, "library-conflict")
    assert first.json["id"] in problem["detail"]
    given_up = client.post("/v1/libraries/art/rollback")
    assert (given_up.json["models"], given_up.json["next"]) == ([LITE0_REF], None)
    assert client.get(f"/v1/jobs/{first.json['id']}").json["status"] == "cancelled"
    assert plan(runtime, settings, first.json["id"]) == 0
    assert_problem(client.post("/v1/libraries/art/rollback"), 409, "library-conflict")


def test_a_plan_that_drops_a_model_holds_at_once_and_can_be_taken_back(
    client: Client, runtime: Runtime, settings: Settings, filled: dict[str, str]
) -> None:
    run(runtime, settings, put(client, [LITE0, PHASH]).json["id"])
    smaller = put(client, [PHASH])
    assert (smaller.status_code, smaller.json["models"]) == (200, [PHASH_REF])
    back = client.post("/v1/libraries/art/rollback")
    assert back.json["models"] == [LITE0_REF, PHASH_REF]


def test_what_a_lost_worker_left_is_ended(
    client: Client,
    runtime: Runtime,
    settings: Settings,
    filled: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = put(client, [PHASH]).json["id"]
    with monkeypatch.context() as patch:
        patch.setattr(editions.Editions, "switch_if_built", lambda *_: None)
        run(runtime, settings, job_id)
    assert record(client)["next"] is not None
    runtime.editions.tend()
    assert client.get(f"/v1/jobs/{job_id}").json["status"] == "succeeded"
    assert record(client)["models"] == [PHASH_REF]

    lost = put(client, [LITE0], metric="IP").json["id"]
    runtime.jobs.forget(runtime.jobs.get(lost))
    runtime.editions.tend()
    assert record(client)["next"] is None


def test_a_plan_that_was_broken_off_is_made_whole(
    client: Client,
    runtime: Runtime,
    settings: Settings,
    filled: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = set_anew(runtime, chunk_items=3)
    job_id = put(client, [PHASH]).json["id"]

    def lose(_: Celery) -> None:
        raise Unavailable("the worker is gone")

    with monkeypatch.context() as patch:
        patch.setattr(runtime.feed, "top_up", lose)
        with pytest.raises(Unavailable):
            plan(runtime, settings, job_id)
    assert runtime.jobs.get(job_id).n_chunks == 1
    assert run(runtime, settings, job_id) == ["succeeded"] * 3 + ["skipped"] * 3 + ["succeeded"]
    assert record(client)["models"] == [PHASH_REF]


def test_the_edition_before_is_dropped_when_its_time_is_over(
    client: Client, runtime: Runtime, settings: Settings, filled: dict[str, str]
) -> None:
    before = record(client)["collections"][LITE0_REF]
    runtime = set_anew(runtime, rollback_s=0)
    run(runtime, settings, put(client, [PHASH]).json["id"])
    assert runtime.vectors.has(before)
    runtime.editions.tend()
    assert record(client)["previous"] is None
    assert not runtime.vectors.has(before)
    assert_problem(client.post("/v1/libraries/art/rollback"), 409, "library-conflict")
    assert len(search_with(runtime, filled["coffee.png"])[0]) == 3


def test_a_library_is_removed_with_all_that_it_has(
    client: Client, runtime: Runtime, filled: dict[str, str]
) -> None:
    assert_problem(client.delete("/v1/libraries/default"), 409, "library-conflict")
    collection = record(client)["collections"][LITE0_REF]
    waiting = post(client, [("red", plain_picture("red"))], library="art")
    removal = client.delete("/v1/libraries/art")
    assert (removal.status_code, removal.json["kind"]) == (202, "delete")
    assert_problem(client.get("/v1/libraries/art"), 404, "library-not-found")
    runtime.removals.remove(runtime.jobs.get(removal.json["id"]))
    runtime.editions.tend()
    assert not runtime.vectors.has(collection)
    assert not list((runtime.settings.blob_dir / "images").rglob("*/*"))
    with pytest.raises(LibraryNotFound):
        outcomes(runtime, waiting)
    assert put(client, [LITE0]).status_code == 201
    assert client.get("/v1/images?library=art").json["items"] == []
    again = client.post("/v1/images?library=art", data={"file": (io.BytesIO(b"x"), "a.jpg")})
    assert again.status_code == 202
