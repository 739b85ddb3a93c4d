from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from support.records import image, summary
from support.requests import assert_problem, client_of, counts, form_body
from support.servers import wait_until

from twinlens.shared.errors import QueueFull
from twinlens.shared.queries import MAX_K, SearchQuery
from twinlens.shared.queue import SEARCH
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import connect, connect_raw
from twinlens.shared.redis.sent import SentPictures

if TYPE_CHECKING:
    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.settings import Settings


ID = "a" * 64
FORM = {"content_type": "multipart/form-data"}
BOTH = json.dumps({"image_id": ID})


def search(client: Client, query: Any = None, content: bytes = b"query", **options: Any) -> Any:
    parts = {} if query is None else {"query": json.dumps(query)}
    data = {"file": (io.BytesIO(content), "q.jpg"), **parts}
    return client.post("/v1/search", data=data, **options)


def test_a_picture_is_searched_with(client: Client, worker: StandIn, settings: Settings) -> None:
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
    assert set(task["kwargs"]) == {"job_id", "query", "submitted_at", "sent"}
    assert task["kwargs"]["sent"] == [1, 0]
    assert SearchQuery.model_validate(task["kwargs"]["query"]) == SearchQuery(models=["phash"], k=3)
    with connect_raw(settings.redis_url) as pictures:
        assert pictures.get(keys.query_picture(job["id"])) == b"query"
        assert 0 < pictures.ttl(keys.query_picture(job["id"])) <= 600
    assert client.get("/v1/jobs").json["items"] == []
    listed = client.get("/v1/jobs?kind=search").json["items"]
    assert [one["id"] for one in listed] == [job["id"]]


def test_the_result_has_links(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    job_id = search(client).json["id"]
    hit: dict[str, Any] = {
        "rank": 1,
        "score": 0.9,
        "image": image(ID).model_dump(mode="json"),
        "models": {"lite0": {"rank": 1, "distance": 0.2, "score": 0.9}},
        "copy": None,
    }
    stages = ("queued", "decode", "embed", "search", "fuse", "rerank", "verify", "total")
    times = dict.fromkeys(stages, 1.0)
    result = {
        "hits": [hit],
        "library_images": 1,
        "by_model": {"lite0": [{"rank": 1, "image_id": ID, "distance": 0.2}]},
        "asked_with": {"lite0": ["pictures"]},
        "agreement": {"overlap_at_k": None, "rank_correlation": None},
        "indexed_through": "2026-01-01T00:00:00.000Z",
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
    client: Client, worker: StandIn, settings: Settings
) -> None:
    worker.serve("lite0")
    assert_problem(client.post("/v1/search", json={"image_id": ID}), 404, "image-not-found")
    worker.add(image(ID))
    response = client.post("/v1/search", json={"image_id": ID, "k": 1000})
    assert response.status_code == 202
    [task] = worker.queued()
    assert task["kwargs"]["query"]["image_id"] == ID
    with connect(settings.redis_url) as redis:
        assert not redis.exists(keys.query_picture(response.json["id"]))


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
    client: Client, query: Any, location: str
) -> None:
    for answer in (search(client, query), client.post("/v1/search", json=query)):
        problem = assert_problem(answer, 422, "validation-failed")
        assert [error["location"] for error in problem["errors"]] == [location]


@pytest.mark.parametrize(
    ("sizes", "detail"),
    [
        ([10_001], "The picture has more than 10000 bytes."),
        ([6_000, 4_001], "The pictures have more than 10000 bytes together."),
    ],
)
def test_pictures_that_are_too_large_are_told_their_limit(
    client: Client, sizes: list[int], detail: str
) -> None:
    parts = [("file", (str(n_bytes), b"x" * n_bytes)) for n_bytes in sizes]
    problem = assert_problem(
        client.post("/v1/search", **form_body(parts)), 413, "payload-too-large"
    )
    assert problem["detail"] == detail


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"json": {}}, 422, "validation-failed"),
        ({"data": "{", "content_type": "application/json"}, 400, "bad-request"),
        ({"data": " " * 300_000, "content_type": "application/json"}, 413, "payload-too-large"),
        ({"data": "x", "content_type": "image/png"}, 415, "unsupported-media"),
        ({"data": {"query": "{}"}} | FORM, 422, "validation-failed"),
        (form_body({"file": ("q", b"")}), 422, "empty-picture"),
        ({"data": {"file": (io.BytesIO(b"x" * 10_001), "q")}}, 413, "payload-too-large"),
        ({"data": {"file": (io.BytesIO(b"x"), "q"), "query": BOTH}}, 404, "image-not-found"),
        ({"json": {"image_id": ID}, "query_string": "k=3"}, 422, "validation-failed"),
        ({"json": {"image_id": ID, "library": "none"}}, 404, "library-not-found"),
    ],
)  # fmt: skip
def test_other_requests_are_refused(
    client: Client, worker: StandIn, options: dict[str, Any], status: int, code: str
) -> None:
    assert_problem(client.post("/v1/search", **options), status, code)
    assert worker.queued() == []
    assert client.get("/v1/jobs?kind=search").json["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "location"),
    [
        ("GET", "/v1/models/vgg", None, None),
        ("POST", "/v1/search", {"models": ["phash", "vgg"]}, "/models/1"),
        ("POST", "/v1/search", {"weights": {"vgg": 1}}, "/weights/vgg"),
        ("POST", "/v1/search", {"max_distance": {"vgg": 1}}, "/max_distance/vgg"),
        ("POST", "/v1/compare", {"image_ids": [ID, ID], "models": ["vgg"]}, "/models/0"),
        ("PUT", "/v1/libraries/art", {"models": ["phash", "vgg"]}, "/models/1"),
    ],
)
def test_an_unknown_model_is_refused_naming_those_there_are(
    client: Client, worker: StandIn, method: str, path: str, body: Any, location: str | None
) -> None:
    worker.serve("lite0", "phash")
    worker.add(image(ID))
    if path == "/v1/search":
        body["image_id"] = ID
    answer = client.open(path, method=method, json=body)
    problem = assert_problem(answer, 404, "model-not-found")
    assert "'vgg'" in problem["detail"]
    assert re.search("lite0.*, phash", problem["detail"])
    assert [error["location"] for error in problem["errors"]] == ([location] if location else [])
    assert worker.queued() == []


def test_the_longest_query_is_taken(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    worker.add(image(ID))
    query = {"image_id": ID, "exclude": ["f" * 64] * MAX_K, "filter": f"{'a' * 4000} == 1"}
    assert client.post("/v1/search", json=query).status_code == 202
    assert search(client, query).status_code == 202


def test_an_idempotency_key_gives_the_first_search(
    client: Client, worker: StandIn, settings: Settings
) -> None:
    headers = {"Idempotency-Key": "k"}
    first, again = search(client, headers=headers), search(client, headers=headers)
    assert first.json["id"] == again.json["id"]
    assert len(worker.queued()) == 1
    with connect(settings.redis_url) as redis:
        assert redis.keys("tl:query:*") == [keys.query_picture(first.json["id"])]
    for other in (
        search(client, {"k": 3}, headers=headers),
        search(client, content=b"another", headers=headers),
    ):
        assert_problem(other, 422, "idempotency-conflict")
    with connect(settings.redis_url) as redis:
        assert redis.keys("tl:query:*") == [keys.query_picture(first.json["id"])]
    # The same key at another endpoint is another key.
    raw = {"data": b"query", "content_type": "image/png"}
    assert client.post("/v1/images", headers=headers, **raw).status_code == 202


def test_several_examples_are_searched_with(
    client: Client, worker: StandIn, settings: Settings
) -> None:
    worker.serve("lite0")
    worker.add(image(ID))
    parts = [
        ("negative", ("n.jpg", b"not this")),
        ("file", ("a.jpg", b"one")),
        ("query", (None, json.dumps({"positive": [ID]}))),
        ("file", ("b.jpg", b"two")),
    ]
    response = client.post("/v1/search", **form_body(parts))
    assert response.status_code == 202, response.text
    [task] = worker.queued()
    assert task["kwargs"]["sent"] == [2, 1]
    with connect_raw(settings.redis_url) as pictures:
        names = [keys.query_picture(response.json["id"], number) for number in range(3)]
        assert pictures.mget(names) == [b"one", b"two", b"not this"]


@pytest.mark.parametrize(
    ("query", "location"),
    [
        ({"models": ["lite0"], "weights": {"phash": 1}}, "/weights/phash"),
        ({"models": ["lite0"], "max_distance": {"phash": 1}}, "/max_distance/phash"),
        ({"region": [0.5, 0, 0.5, 1]}, ""),
        ({"region": [0, 0, 1, 2]}, "/region/3"),
        ({"region": [0, 0, 1, 1], "positive": [ID]}, "/region"),
        ({"mode": "near", "positive": [ID]}, "/mode"),
        ({"text": "words"}, "/text"),
        ({"offset": -1}, "/offset"),
        ({"min_score": 1.5}, "/min_score"),
        ({"fusion": "best"}, "/fusion"),
        ({"negative": [ID] * 16}, "/positive"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_place(
    client: Client, worker: StandIn, query: Any, location: str
) -> None:
    worker.serve("lite0", "phash")
    worker.add(image(ID))
    problem = assert_problem(search(client, query), 422, "validation-failed")
    assert {error["location"] for error in problem["errors"]} == {location}
    assert worker.queued() == []


@pytest.mark.parametrize(
    ("n_files", "query", "status"),
    [
        (1, {"region": [0, 0, 1, 1]}, 202),
        (1, {"mode": "near"}, 202),
        (1, {"mode": "near", "region": [0.2, 0.2, 0.8, 0.8]}, 202),
        (2, {"mode": "near"}, 422),
        (2, {"region": [0, 0, 1, 1]}, 422),
        (1, {"negative": [ID] * 15}, 202),
        (15, {"positive": [ID]}, 202),
        (16, {"positive": [ID]}, 422),
        (16, {}, 202),
        (17, {}, 422),
        (1, {"k": 1000, "offset": 10_000}, 202),
        (1, {"k": 1001}, 422),
        (1, {"offset": 10_001}, 422),
    ],
)
def test_a_query_has_at_most_so_much(
    client: Client, worker: StandIn, n_files: int, query: Any, status: int
) -> None:
    worker.serve("lite0")
    worker.add(image(ID))
    files = [("file", (f"{n}.jpg", b"x")) for n in range(n_files)]
    parts = [*files, ("query", (None, json.dumps(query)))]
    answer = client.post("/v1/search", **form_body(parts))
    assert answer.status_code == status, answer.text


def test_counterexamples_alone_are_no_query(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    worker.add(image(ID))
    answer = client.post("/v1/search", json={"negative": [ID]})
    problem = assert_problem(answer, 422, "validation-failed")
    assert [error["location"] for error in problem["errors"]] == ["/image_id"]


def test_a_filter_that_cannot_be_read_is_refused_saying_where(
    client: Client, worker: StandIn
) -> None:
    worker.serve("lite0")
    problem = assert_problem(search(client, {"filter": "city == "}), 422, "bad-filter")
    assert problem["detail"].startswith("At the end: expected a string")
    problem = assert_problem(search(client, {"filter": "width == '2'"}), 422, "bad-filter")
    assert problem["detail"].startswith("At character 1: width is compared with a number")
    long = assert_problem(search(client, {"filter": "a == 1" + " " * 4096}), 422, "bad-filter")
    assert "at most 4,096 characters" in long["detail"]
    assert search(client, {"filter": 'city == "Paris" and width > 2'}).status_code == 202


def test_a_field_to_group_by_is_read_as_in_a_filter(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    for unread, told in (("shot at", "expected the end, found 'at'"), ("in", "expected a field")):
        problem = assert_problem(search(client, {"group_by": unread}), 422, "validation-failed")
        [error] = problem["errors"]
        assert error["location"].endswith("/group_by")
        assert told in error["message"]
        assert "goes in backquotes" in error["message"]
    for field in ("city", "`shot at`", "format"):
        assert search(client, {"group_by": field}).status_code == 202


def test_two_pictures_are_compared_or_it_is_said_why_not(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    worker.add(image(ID))
    bodies: list[dict[str, Any]] = [
        {"json": {}},
        {"json": {"image_ids": [ID]}},
        form_body([("file", ("a", b"x")), ("query", (None, json.dumps({"image_ids": [ID] * 2})))]),
        form_body([("file", (name, b"x")) for name in "abc"]),
    ]
    for body in bodies:
        assert_problem(client.post("/v1/compare", **body), 422, "validation-failed")
    missing = {"json": {"image_ids": [ID, "b" * 64]}}
    assert_problem(client.post("/v1/compare", **missing), 404, "image-not-found")
    nobody = client.post("/v1/compare", json={"image_ids": [ID, ID]})
    assert "No search worker" in assert_problem(nobody, 503, "unavailable")["detail"]


def test_duplicates_are_looked_for_where_there_are_hashes(client: Client, worker: StandIn) -> None:
    worker.catalog.publish_models([summary("lite0"), summary("phash", metric="HAMMING")])
    assert client.put("/v1/libraries/plain", json={"models": ["lite0"]}).status_code == 201
    assert client.put("/v1/libraries/art", json={"models": ["lite0", "phash"]}).status_code == 201
    refused = client.post("/v1/duplicates", json={"library": "plain"})
    assert "phash" in assert_problem(refused, 422, "validation-failed")["errors"][0]["message"]
    assert client.put("/v1/libraries/bits", json={"models": ["phash"]}).status_code == 201
    refused = client.post("/v1/duplicates", json={"library": "bits", "verify": True})
    [error] = assert_problem(refused, 422, "validation-failed")["errors"]
    assert error["location"] == "/verify"
    headers = {"Idempotency-Key": "k"}
    asked = {"library": "art", "max_distance": 8, "verify": True}
    job = client.post("/v1/duplicates", json=asked, headers=headers)
    assert (job.status_code, job.json["kind"]) == (202, "duplicates")
    again = client.post("/v1/duplicates", json=asked, headers=headers)
    assert again.json["id"] == job.json["id"]
    [task] = worker.queued()
    assert (task["queue"], task["kwargs"]["query"]) == ("single", asked)
    result = {
        "n_images": 3,
        "n_groups": 1,
        "groups": [[ID, "b" * 64]],
        "confirmed_by": "lite0",
        "kinds": {"b" * 64: ["smaller"]},
        "evidence": {},
        "n_unverified": 0,
    }
    worker.finish_search(job.json["id"], result)
    assert client.get(f"/v1/jobs/{job.json['id']}").json["result"] == result


def test_the_pictures_of_all_queries_have_a_bound_which_is_free_again(
    settings: Settings, worker: StandIn
) -> None:
    worker.serve("lite0", "phash")
    client = client_of(settings.model_copy(update={"max_sent_bytes": 12}))
    first = search(client).json["id"]  # five bytes
    assert search(client).status_code == 202
    assert_problem(search(client), 503, "queue-full")
    assert len(worker.redis.keys("tl:query:*")) == 2
    # Without pictures, nothing is held up.
    worker.add(image("a" * 64))
    assert client.post("/v1/search", json={"image_id": "a" * 64}).status_code == 202
    SentPictures(worker.redis).forget(first, 1)
    for _ in range(2):  # what is forgotten twice is free once
        SentPictures(worker.redis).forget(first, 1)
    assert [search(client).status_code for _ in range(2)] == [202, 503]


def test_the_memory_of_pictures_that_nobody_took_is_free_once_they_are_gone(
    settings: Settings, worker: StandIn
) -> None:
    worker.serve("lite0", "phash")
    client = client_of(settings.model_copy(update={"max_sent_bytes": 5}))
    sent = SentPictures(worker.redis, 5)
    sent.reserve("t", [b"query"], 0.05)
    with pytest.raises(QueueFull):
        sent.reserve("u", [b"query"], 600)
    wait_until(lambda: search(client).status_code == 202, 20)


def test_a_query_that_comes_to_nothing_holds_no_memory(settings: Settings, worker: StandIn) -> None:
    worker.serve("lite0", "phash")
    client = client_of(settings)
    keyed = {"Idempotency-Key": "k"}
    assert search(client, headers=keyed).json["id"] == search(client, headers=keyed).json["id"]
    assert worker.redis.hget(keys.SENT, "all") == "5"


def test_a_redis_without_memory_is_told_of(client: Client, worker: StandIn) -> None:
    worker.serve("lite0", "phash")
    limit = worker.redis.config_get("maxmemory")["maxmemory"] or 0
    worker.redis.config_set("maxmemory", 1)
    try:
        assert_problem(search(client), 503, "queue-full")
        assert_problem(
            client.post("/v1/images", data=b"x", content_type="image/png"), 503, "queue-full"
        )
    finally:
        worker.redis.config_set("maxmemory", limit)
    assert search(client).status_code == 202
