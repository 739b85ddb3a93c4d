from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from integration.conftest import assert_problem, counts, form_body, image

from twinlens.shared.messages import SearchQuery
from twinlens.shared.queue import SEARCH, connect, query_key

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from integration.conftest import StandIn

    from twinlens.shared.settings import Settings


ID = "a" * 64
FORM = {"content_type": "multipart/form-data"}
BOTH = json.dumps({"image_id": ID})


def search(
    client: FlaskClient, query: Any = None, content: bytes = b"query", **options: Any
) -> Any:
    parts = {} if query is None else {"query": json.dumps(query)}
    data = {"file": (io.BytesIO(content), "q.jpg"), **parts}
    return client.post("/v1/search", data=data, **options)


def test_a_picture_is_searched_with(
    client: FlaskClient, worker: StandIn, settings: Settings
) -> None:
    worker.serve("lite0", "phash")
    query = {"models": ["phash"], "k": 3}
    response = search(client, query, headers={"X-Request-ID": "s-1"})

    assert response.status_code == 202
    job = response.json
    assert (job["kind"], job["library"]) == ("search", "default")
    assert counts(job) == {"total": 1, "succeeded": 0, "skipped": 0, "failed": 0}
    [task] = worker.queued()
    assert (task["name"], task["queue"], task["id"]) == (SEARCH, "search", job["id"])
    assert task["request_id"] == "s-1"
    assert set(task["kwargs"]) == {"job_id", "query", "submitted_at"}
    assert SearchQuery.model_validate(task["kwargs"]["query"]) == SearchQuery(models=["phash"], k=3)
    with connect(settings.redis_url, decode=False) as pictures:
        assert pictures.get(query_key(job["id"])) == b"query"
        assert 0 < pictures.ttl(query_key(job["id"])) <= 600
    assert client.get("/v1/jobs").json["items"] == []
    listed = client.get("/v1/jobs?kind=search").json["items"]
    assert [one["id"] for one in listed] == [job["id"]]


def test_the_result_has_links(client: FlaskClient, worker: StandIn) -> None:
    worker.serve("lite0")
    job_id = search(client).json["id"]
    hit = {
        "rank": 1,
        "score": 0.9,
        "image": image(ID).model_dump(mode="json"),
        "models": {"lite0": {"rank": 1, "distance": 0.2, "score": 0.9}},
    }
    times = dict.fromkeys(("queued", "decode", "embed", "search", "fuse", "rerank", "total"), 1.0)
    result = {
        "hits": [hit],
        "by_model": {"lite0": [{"rank": 1, "image_id": ID, "distance": 0.2}]},
        "agreement": {"overlap_at_k": None, "rank_correlation": None},
        "timing_ms": times,
    }
    worker.finish_search(job_id, result)
    job = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=5"}).json
    assert job["status"] == "succeeded"
    assert job["progress"]["succeeded"] == 1
    links = job["result"]["hits"][0]["image"].pop("links")
    assert links["self"] == f"/v1/images/{ID}"
    assert set(links) == {"self", "content", "thumbnail"}
    hit["image"].pop("links")
    assert job["result"] == result
    assert client.get(f"/v1/jobs/{job_id}/items").json == {"items": [], "next_cursor": None}


def test_a_stored_image_is_searched_with(
    client: FlaskClient, worker: StandIn, settings: Settings
) -> None:
    worker.serve("lite0")
    assert_problem(client.post("/v1/search", json={"image_id": ID}), 404, "image-not-found")
    worker.add(image(ID))
    response = client.post("/v1/search", json={"image_id": ID, "k": 1000})
    assert response.status_code == 202
    [task] = worker.queued()
    assert task["kwargs"]["query"]["image_id"] == ID
    with connect(settings.redis_url) as redis:
        assert not redis.exists(query_key(response.json["id"]))


@pytest.mark.parametrize(
    ("query", "location"),
    [
        ({"k": 0}, "/k"),
        ({"k": 10**9}, "/k"),
        ({"k": 10**30}, "/k"),
        ({"k": None}, "/k"),
        ({"models": []}, "/models"),
        ({"kk": 1}, "/kk"),
        ({"image_id": "x"}, "/image_id"),
        ([], ""),
        ("text", ""),
    ],
)
def test_bad_queries_are_refused_with_their_place(
    client: FlaskClient, query: Any, location: str
) -> None:
    as_part = assert_problem(search(client, query), 422, "validation-failed")
    assert [error["location"] for error in as_part["errors"]] == ["query" + location]
    as_body = assert_problem(client.post("/v1/search", json=query), 422, "validation-failed")
    assert [error["location"] for error in as_body["errors"]] == [location]


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"json": {}}, 422, "validation-failed"),
        ({"data": "{", "content_type": "application/json"}, 400, "bad-request"),
        ({"data": " " * 70_000, "content_type": "application/json"}, 413, "payload-too-large"),
        ({"data": "x", "content_type": "image/png"}, 415, "unsupported-media"),
        ({"data": {"query": "{}"}} | FORM, 422, "validation-failed"),
        (form_body({"file": ("q", b"")}), 422, "empty-picture"),
        ({"data": {"file": (io.BytesIO(b"x" * 10_001), "q")}}, 413, "payload-too-large"),
        ({"data": {"file": (io.BytesIO(b"x"), "q"), "query": BOTH}}, 422, "validation-failed"),
        ({"json": {"image_id": ID}, "query_string": "k=3"}, 422, "validation-failed"),
        ({"json": {"image_id": ID, "library": "none"}}, 404, "library-not-found"),
    ],
)  # fmt: skip
def test_other_requests_are_refused(
    client: FlaskClient, worker: StandIn, options: dict[str, Any], status: int, code: str
) -> None:
    assert_problem(client.post("/v1/search", **options), status, code)
    assert worker.queued() == []
    assert client.get("/v1/jobs?kind=search").json["items"] == []


def test_an_unknown_model_is_refused_naming_those_there_are(
    client: FlaskClient, worker: StandIn
) -> None:
    worker.serve("lite0", "phash")
    problem = assert_problem(search(client, {"models": ["vgg"]}), 404, "model-not-found")
    assert "'vgg'" in problem["detail"]
    assert "lite0, phash" in problem["detail"]
    assert worker.queued() == []


def test_an_idempotency_key_gives_the_first_search(
    client: FlaskClient, worker: StandIn, settings: Settings
) -> None:
    headers = {"Idempotency-Key": "k"}
    first, again = search(client, headers=headers), search(client, headers=headers)
    assert first.json["id"] == again.json["id"]
    assert len(worker.queued()) == 1
    with connect(settings.redis_url) as redis:
        assert redis.keys("tl:query:*") == [query_key(first.json["id"])]
    for other in (
        search(client, {"k": 3}, headers=headers),
        search(client, content=b"another", headers=headers),
    ):
        assert_problem(other, 422, "idempotency-conflict")
    with connect(settings.redis_url) as redis:
        assert redis.keys("tl:query:*") == [query_key(first.json["id"])]
    # The same key at another endpoint is another key.
    raw = {"data": b"query", "content_type": "image/png"}
    assert client.post("/v1/images", headers=headers, **raw).status_code == 202
