"""Libraries: which models they have, and how much each counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.records import image, summary
from support.requests import assert_problem

from twinlens.shared.indexes import server_of

if TYPE_CHECKING:
    from support.requests import Client
    from support.stand_in import StandIn


def put(client: Client, name: str, **plan: Any) -> Any:
    return client.put(f"/v1/libraries/{name}", json=plan)


def test_a_library_is_made_and_its_weights_are_changed(client: Client, worker: StandIn) -> None:
    worker.serve("lite0", "phash")
    made = put(client, "art", models=["lite0", "phash@1"])
    assert made.status_code == 201
    assert (made.json["name"], made.json["models"]) == ("art", ["lite0@1", "phash@1"])
    assert (made.json["weights"], made.json["next"], made.json["previous"]) == ({}, None, None)
    assert client.get("/v1/libraries/art").json == made.json

    worker.add(image("a" * 64, library="art"))
    changed = put(client, "art", models=["phash", "lite0"], weights={"phash": 0.2})
    assert (changed.status_code, changed.json["weights"]) == (200, {"phash": 0.2})
    assert client.get("/v1/libraries").json["items"][0] == changed.json


def test_models_change_at_once_while_a_library_is_empty(client: Client, worker: StandIn) -> None:
    worker.serve("lite0", "phash")
    changed = put(client, "default", models=["phash"], metric="COSINE")
    assert (changed.status_code, changed.json["models"]) == (200, ["phash@1"])
    assert (changed.json["metric"], changed.json["previous"]) == ("COSINE", None)
    assert worker.queued() == []
    worker.add(image("a" * 64))
    job = put(client, "default", models=["lite0"])
    assert (job.status_code, job.json["kind"]) == (202, "reindex")
    assert job.json["progress"]["total"] is None
    [task] = worker.queued()
    assert (task["name"], task["kwargs"]) == ("twinlens.reindex", {"job_id": job.json["id"]})


def test_a_version_must_be_named_where_there_are_several(client: Client, worker: StandIn) -> None:
    worker.catalog.publish_models([summary("lite0"), summary("lite0", "1-int8")])
    problem = assert_problem(put(client, "art", models=["lite0"]), 404, "model-not-found")
    assert "lite0@1, lite0@1-int8" in problem["detail"]
    assert put(client, "art", models=["lite0@1-int8"]).json["models"] == ["lite0@1-int8"]
    for name, status in (("lite0", 404), ("lite0@1-int8", 200), ("lite0@2", 404)):
        assert client.get(f"/v1/models/{name}").status_code == status
    both = put(client, "art", models=["lite0@1", "lite0@1-int8"])
    assert assert_problem(both, 422, "validation-failed")["errors"][0]["location"] == "/models"


@pytest.mark.parametrize(
    ("name", "plan", "status", "location"),
    [
        ("art", {"models": []}, 422, "/models"),
        ("art", {"models": ["none"]}, 404, "/models/0"),
        ("art", {"models": ["lite0"], "weights": {"phash": 1}}, 422, "/weights/phash"),
        ("art", {"models": ["lite0"], "weights": {"lite0": -1}}, 422, "/weights/lite0"),
        ("art", {"models": ["lite0"], "colour": 1}, 422, "/colour"),
        ("art", {"models": ["lite0"], "index": {"type": "BEST"}}, 422, "/index/type"),
        ("art", {"models": ["lite0"], "index": {"type": "DISKANN"}}, 422, "/index/type"),
        ("art", {"models": ["lite0"], "index": {"recall": 1.0}}, 422, "/index/recall"),
        (
            "art",
            {"models": ["lite0"], "index": {"type": "HNSW", "params": {"M": 1}}},
            422,
            "/index/params/M",
        ),
        (
            "art",
            {"models": ["lite0", "phash"], "index": {"type": "IVF_PQ", "params": {"m": 3}}},
            422,
            "/index/params/m",
        ),
        ("Art", {"models": ["lite0"]}, 422, "path:name"),
        ("a_b", {"models": ["lite0"]}, 422, "path:name"),
        ("a--b", {"models": ["lite0"]}, 422, "path:name"),
        ("a" * 65, {"models": ["lite0"]}, 422, "path:name"),
    ],
)
def test_a_bad_plan_is_refused_and_makes_nothing(
    client: Client,
    worker: StandIn,
    name: str,
    plan: dict[str, Any],
    status: int,
    location: str,
) -> None:
    worker.serve("lite0", "phash")
    worker.catalog.publish_server(server_of("v2.3.5-lite"))
    response = put(client, name, **plan)
    assert response.status_code == status, response.text
    assert response.json["errors"][0]["location"] == location
    assert [one["name"] for one in client.get("/v1/libraries").json["items"]] == ["default"]


def test_an_index_is_one_of_the_connected_server(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    # Where no worker has told yet which server that is, one finds out when it writes.
    assert put(client, "early", models=["lite0"], index={"type": "DISKANN"}).status_code == 201
    worker.catalog.publish_server(server_of(None))
    refused = put(client, "late", models=["lite0"], index={"type": "HNSW"})
    [error] = assert_problem(refused, 422, "validation-failed")["errors"]
    assert error["location"] == "/index/type"
    assert "Milvus Lite" in error["message"]
    assert error["message"].endswith("it has: AUTO, FLAT, IVF_FLAT.")
    assert put(client, "late", models=["lite0"], index={"type": "IVF_FLAT"}).status_code == 201


def test_what_counts_in_searches_alone_is_changed_at_once(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    worker.add(image("a" * 64))
    plan = {"models": ["lite0"], "index": {"type": "HNSW", "params": {"ef": 100}}}
    assert put(client, "default", **plan).status_code == 202
    assert client.post("/v1/libraries/default/rollback").status_code == 200
    assert put(client, "art", **plan).status_code == 201
    worker.add(image("b" * 64, library="art"))
    for fields in ({"params": {"ef": 200}}, {"recall": 0.99}):
        changed = put(client, "art", models=["lite0"], index={"type": "HNSW"} | fields)
        assert (changed.status_code, changed.json["previous"]) == (200, None)
        assert changed.json["index"].items() >= fields.items()


def test_words_are_searched_with_where_a_model_understands_them(
    client: Client, worker: StandIn
) -> None:
    worker.serve("lite0", "clip")
    worker.catalog.publish_models([summary("lite0"), summary("clip", has_text=True)])
    accepted = client.post("/v1/search", json={"text": "a cat", "k": 3})
    assert accepted.status_code == 202
    [task] = worker.queued()
    assert task["kwargs"]["query"]["text"] == "a cat"
    for query in (
        {"text": "a cat", "models": ["lite0"]},
        {"text": "a cat", "models": ["lite0", "clip"]},
        {"text": ""},
        {"text": "x" * 2001},
    ):
        assert_problem(client.post("/v1/search", json=query), 422, "validation-failed")
