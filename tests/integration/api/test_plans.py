"""Plans of libraries: what is switched on at once, what a job builds, and the way back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.records import image, summary
from support.requests import assert_problem, client_of

from twinlens.shared.queue import DELETE_LIBRARY, REINDEX

if TYPE_CHECKING:
    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.settings import Settings


@pytest.fixture
def art(client: Client, worker: StandIn) -> Client:
    """A library of two models and one picture, and another model beside them."""
    cards = [summary("lite0"), summary("vgg"), summary("phash", metric="HAMMING")]
    worker.catalog.publish_models(cards)
    assert put(client, ["lite0", "phash"]).status_code == 201
    worker.add(image("a" * 64, library="art"))
    return client


def put(client: Client, models: list[str], **plan: Any) -> Any:
    return client.put("/v1/libraries/art", json={"models": models} | plan)


def record(client: Client) -> dict[str, Any]:
    return dict(client.get("/v1/libraries/art").json)


def test_the_same_plan_again_is_the_same_job_and_another_has_to_wait(
    art: Client, worker: StandIn
) -> None:
    job = put(art, ["lite0", "vgg"], weights={"vgg": 2})
    assert (job.status_code, job.json["kind"]) == (202, "reindex")
    again = put(art, ["lite0", "vgg"], weights={"vgg": 2})
    assert (again.status_code, again.json["id"]) == (202, job.json["id"])
    assert [task["name"] for task in worker.queued()] == [REINDEX]
    for other in (
        put(art, ["vgg"]),
        put(art, ["lite0", "vgg"], weights={"vgg": 3}),
        put(art, ["lite0", "vgg"], weights={"vgg": 2}, metric="COSINE"),
        put(art, ["vgg", "lite0"], weights={"vgg": 2}),
    ):
        problem = assert_problem(other, 409, "library-conflict")
        assert job.json["id"] in problem["detail"]
        assert "POST /v1/libraries/art/rollback" in problem["detail"]
    assert record(art)["models"] == ["lite0@1", "phash@1"]
    assert len(art.get("/v1/jobs").json["items"]) == 1


def test_a_plan_that_is_given_up_cancels_its_job(art: Client, worker: StandIn) -> None:
    job = put(art, ["vgg"]).json
    back = art.post("/v1/libraries/art/rollback")
    assert (back.status_code, back.json["next"], back.json["models"]) == (
        200,
        None,
        ["lite0@1", "phash@1"],
    )
    assert art.get(f"/v1/jobs/{job['id']}").json["status"] == "cancelled"
    assert_problem(art.post("/v1/libraries/art/rollback"), 409, "library-conflict")
    assert put(art, ["vgg"]).json["id"] != job["id"]


def test_models_are_taken_away_at_once_and_can_be_had_back_for_a_while(
    art: Client, settings: Settings
) -> None:
    fewer = put(art, ["phash"])
    assert (fewer.status_code, fewer.json["models"]) == (200, ["phash@1"])
    previous = fewer.json["previous"]
    assert previous["models"] == ["lite0@1", "phash@1"]
    left = datetime.fromisoformat(previous["until"]) - datetime.now(UTC)
    rollback = timedelta(seconds=settings.rollback_s)
    assert rollback - timedelta(minutes=5) < left <= rollback

    back = art.post("/v1/libraries/art/rollback").json
    assert (back["models"], back["previous"]["models"]) == (["lite0@1", "phash@1"], ["phash@1"])
    # Whoever goes back and forth has no more time for it than at first.
    assert back["previous"]["until"] == previous["until"]


def test_collections_are_kept_where_the_vectors_stay_as_they_are(
    art: Client, worker: StandIn
) -> None:
    before = record(art)["collections"]
    assert put(art, ["lite0", "phash"], weights={"lite0": 2}).json["collections"] == before
    # Another layout is of float models alone: a hash is compared as it is.
    assert put(art, ["lite0", "phash"], metric="IP").status_code == 202
    planned = record(art)["next"]["collections"]
    assert planned["phash@1"] == before["phash@1"]
    assert planned["lite0@1"] != before["lite0@1"]
    assert art.post("/v1/libraries/art/rollback").status_code == 200
    assert put(art, ["lite0", "phash"], index={"type": "FLAT"}).status_code == 202
    assert art.post("/v1/libraries/art/rollback").status_code == 200
    assert put(art, ["vgg", "phash"]).status_code == 202
    assert record(art)["next"]["collections"]["phash@1"] == before["phash@1"]


def test_a_library_is_forgotten_at_once_with_what_was_planned_for_it(
    art: Client, worker: StandIn
) -> None:
    plan = put(art, ["vgg"]).json
    removal = art.delete("/v1/libraries/art")
    assert (removal.status_code, removal.json["kind"]) == (202, "delete")
    assert removal.headers["Location"] == f"/v1/jobs/{removal.json['id']}"
    assert_problem(art.get("/v1/libraries/art"), 404, "library-not-found")
    assert_problem(art.delete("/v1/libraries/art"), 404, "library-not-found")
    assert art.get(f"/v1/jobs/{plan['id']}").json["status"] == "cancelled"
    [task] = [task for task in worker.queued() if task["name"] == DELETE_LIBRARY]
    assert (task["queue"], task["id"]) == ("single", removal.json["id"])
    assert task["kwargs"] == {"job_id": removal.json["id"]}


def test_the_default_library_stays_and_unknown_ones_are_not_changed(client: Client) -> None:
    assert_problem(client.delete("/v1/libraries/default"), 409, "library-conflict")
    assert_problem(client.delete("/v1/libraries/none"), 404, "library-not-found")
    assert_problem(client.post("/v1/libraries/none/rollback"), 404, "library-not-found")


@pytest.mark.parametrize(("n_chars", "status"), [(64, 201), (65, 422)])
def test_a_name_of_a_library_has_at_most_64_characters(
    client: Client, worker: StandIn, n_chars: int, status: int
) -> None:
    worker.serve("lite0")
    plan = {"models": ["lite0"]}
    assert client.put(f"/v1/libraries/{'a' * n_chars}", json=plan).status_code == status


@pytest.mark.parametrize(("n_models", "status"), [(16, 201), (17, 422)])
def test_a_library_has_at_most_16_models(
    client: Client, worker: StandIn, n_models: int, status: int
) -> None:
    names = [f"m{n}" for n in range(n_models)]
    worker.catalog.publish_models(map(summary, names))
    assert put(client, names).status_code == status


@pytest.mark.parametrize(("weight", "status"), [(0, 201), (1000, 201), (1000.5, 422), (-0.5, 422)])
def test_a_weight_is_from_0_to_1000(
    client: Client, worker: StandIn, weight: float, status: int
) -> None:
    worker.serve("lite0")
    assert put(client, ["lite0"], weights={"lite0": weight}).status_code == status


def test_pages_are_a_hundred_long_unless_asked_for_up_to_a_thousand(
    client: Client, worker: StandIn, settings: Settings
) -> None:
    for n in range(101):
        worker.add(image(f"{n:064x}"))
    page = client.get("/v1/images").json
    assert len(page["items"]) == 100
    assert page["next_cursor"] is not None
    last = client.get("/v1/images", query_string={"limit": 1000}).json
    assert (len(last["items"]), last["next_cursor"]) == (101, None)
    exact = client_of(settings).get("/v1/images", query_string={"limit": 101}).json
    assert (len(exact["items"]), exact["next_cursor"]) == (101, None)
