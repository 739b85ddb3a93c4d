"""Models, libraries, counts, health, the document, and what every answer has."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from support.records import image
from support.requests import assert_problem, client_of
from support.servers import free_port
from support.stand_in import read_task

from twinlens.api.app import create_app
from twinlens.api.probe import PROBE_TIMEOUT_S, is_listening
from twinlens.api.routes.bulk import LISTING_TYPES, TAR_TYPES, ZIP_TYPES
from twinlens.api.services import build_services
from twinlens.shared.libraries import Damage, NextEdition, new_library
from twinlens.shared.queue import COUNT_VECTORS, Reply
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import connect

if TYPE_CHECKING:
    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.settings import Settings


def test_models_are_listed_by_name(client: Client, worker: StandIn) -> None:
    assert client.get("/v1/models").json == {"items": [], "next_cursor": None}
    worker.serve("vgg", "lite0", "phash")
    first = client.get("/v1/models?limit=2").json
    rest = client.get("/v1/models", query_string={"cursor": first["next_cursor"]}).json
    names = [model["name"] for model in first["items"] + rest["items"]]
    assert names == ["lite0", "phash", "vgg"]
    assert rest["next_cursor"] is None
    assert client.get("/v1/models/vgg").json == rest["items"][0]
    problem = assert_problem(client.get("/v1/models/none"), 404, "model-not-found")
    assert "lite0@1, phash@1, vgg@1" in problem["detail"]
    assert_problem(client.get("/v1/models/vgg?x=1"), 422, "validation-failed")


def test_the_default_library_is_there_from_the_start(client: Client, worker: StandIn) -> None:
    worker.redis.delete(keys.LIBRARIES)
    assert models_of(client) == {"default": []}
    worker.serve("lite0")
    worker.serve("phash", library="art")
    assert models_of(client) == {"art": ["phash@1"], "default": ["lite0@1"]}


def models_of(client: Client) -> dict[str, list[str]]:
    listed = client.get("/v1/libraries").json
    assert listed["next_cursor"] is None
    return {library["name"]: library["models"] for library in listed["items"]}


def test_stats(client: Client, worker: StandIn, settings: Settings) -> None:
    worker.serve("lite0")
    worker.add(image("a" * 64))
    client.post("/v1/images", data=b"x", content_type="image/png")
    alone = client.get("/v1/stats").json
    assert alone == {
        "libraries": {"default": {"images": 1, "vectors": None}},
        "queues": {"search": 0, "single": 1, "bulk": 0},
        "webhooks": {"pending": 0, "delivered": 0, "retried": 0, "failed": 0},
        "backlog": {
            "pictures": 0,
            "pictures_per_s": 0.0,
            "process_pictures_per_s": None,
            "processes_for_an_hour": None,
        },
        "rescues": {},
        "workers": [],
    }

    worker.announce("search")

    def work() -> None:
        with connect(settings.redis_url) as redis:
            task = read_task(redis.brpop(["search"], timeout=5)[1])
            assert task["name"] == COUNT_VECTORS
            reply = Reply(value={"lite0": 7}).model_dump_json()
            redis.rpush(keys.reply(task["id"]), reply)

    thread = threading.Thread(target=work)
    thread.start()
    stats = client.get("/v1/stats").json
    thread.join()
    assert stats["libraries"] == {"default": {"images": 1, "vectors": {"lite0": 7}}}
    assert [(one["lanes"], one["pictures_per_s"]) for one in stats["workers"]] == [
        (["search"], 1.5)
    ]


def test_readiness_names_what_is_missing(
    client: Client, worker: StandIn, settings: Settings
) -> None:
    assert client.get("/livez").json == {"status": "alive"}

    def missing(of: Client) -> list[str]:
        response = of.get("/readyz")
        assert "Retry-After" in response.headers
        problem = assert_problem(response, 503, "unavailable")
        return [error["location"] for error in problem["errors"]]

    worker.serve("lite0")
    assert missing(client) == ["worker:search", "worker:bulk"]
    worker.announce("search")
    worker.announce("bulk", milvus="timed out")
    assert missing(client) == ["worker:bulk"]
    worker.announce("bulk")
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (200, "ready")
    assert ready.json["workers"] == {"search": 1, "bulk": 1}

    nowhere = f"127.0.0.1:{free_port()}"
    down = client_of(settings.model_copy(update={"milvus_uri": f"http://{nowhere}"}))
    assert missing(down) == ["milvus"]
    down = client_of(settings.model_copy(update={"redis_url": f"redis://{nowhere}/0"}))
    assert missing(down) == ["redis"]
    assert down.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"idle_s": 30.0}, None),
        ({"idle_s": 31.0}, "No task has ended in 30 s, and none is running."),
        ({"idle_s": None}, "No task has ended in 30 s, and none is running."),
        ({"idle_s": None, "task_left_s": 3.0}, None),
        ({"idle_s": 500.0, "task_left_s": -30.0}, None),
        (
            {"idle_s": 1.0, "task_left_s": -31.0},
            "bulk@test:1: Its task has run 31 s longer than it may.",
        ),
        ({"probe": "No answer."}, "bulk@test:1: No answer."),
        ({"probe": "No answer.", "task_left_s": 3.0}, None),
        ({"milvus": "No answer."}, "bulk@test:1: It cannot reach Milvus: No answer."),
    ],
)
def test_a_lane_is_ready_once_it_is_proven_to_work(
    client: Client, worker: StandIn, told: dict[str, Any], message: str | None
) -> None:
    worker.serve("lite0")
    worker.announce("search")
    worker.announce("bulk", **told)
    answer = client.get("/readyz")
    if message is None:
        assert answer.status_code == 200
    else:
        problem = assert_problem(answer, 503, "unavailable")
        assert problem["errors"] == [{"location": "worker:bulk", "message": message}]


def test_a_lane_with_processes_in_order_is_ready_and_the_others_are_named(
    client: Client, worker: StandIn
) -> None:
    worker.serve("lite0")
    worker.announce("search")
    worker.announce("bulk", probe="No answer.")
    worker.announce("bulk", 2, idle_s=500)
    assert client.get("/readyz").status_code == 503, "the one in order is not proven"
    worker.announce("bulk", 2)
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["faults"]) == (200, {"bulk@test:1": "No answer."})


def test_a_library_with_pictures_and_no_record_is_named_unless_it_was_removed(
    client: Client, worker: StandIn, settings: Settings
) -> None:
    for lane in ("search", "bulk"):
        worker.announce(lane)
    worker.serve("lite0")
    worker.serve("lite0", library="art")
    art = worker.catalog.library("art")
    for library_id in ("default", art.id):
        settings.blob_dir.joinpath("images", library_id).mkdir(parents=True)
    assert client.get("/readyz").json["lacks"] == {}
    worker.redis.hdel(keys.LIBRARIES, "art")
    assert list(client.get("/readyz").json["lacks"]) == [art.id]
    worker.redis.delete(keys.LIBRARIES)
    errors = assert_problem(client.get("/readyz"), 503, "unavailable")["errors"]
    assert [one["location"] for one in errors] == ["library:default", f"library:{art.id}"]

    worker.serve("lite0")
    worker.catalog.ensure_library(art)
    worker.catalog.remove_library("art", art.id)
    assert client.get("/readyz").json["lacks"] == {}


def test_a_store_that_cannot_be_read_is_named(
    client: Client, worker: StandIn, settings: Settings
) -> None:
    for lane in ("search", "bulk"):
        worker.announce(lane)
    worker.serve("lite0")
    settings.blob_dir.mkdir(parents=True)
    settings.blob_dir.joinpath("images").touch()
    errors = assert_problem(client.get("/readyz"), 503, "unavailable")["errors"]
    message = "The pictures cannot be read: Not a directory."
    assert errors == [{"location": "pictures", "message": message}]


def test_a_library_that_lacks_models_is_named_and_the_rest_is_ready(
    client: Client, worker: StandIn
) -> None:
    for lane in ("search", "bulk"):
        worker.announce(lane)
    worker.serve("lite0")
    planned = new_library("art", ["lite0@1"])
    planned.next = NextEdition(models=["lite0@1", "vgg@2"], job_id="j")
    worker.catalog.ensure_library(planned)
    lacks = {"art": ["vgg@2"]}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["missing_models"]) == (200, lacks)
    listed = {one["name"]: one for one in client.get("/v1/libraries").json["items"]}
    assert [listed[name]["missing_models"] for name in ("art", "default")] == [["vgg@2"], []]
    assert client.get("/v1/libraries/art").json == listed["art"]

    worker.catalog.publish_models([])
    problem = assert_problem(client.get("/readyz"), 503, "unavailable")
    told = {error["location"]: error["message"] for error in problem["errors"]}
    assert told == {
        "library:art": "No worker has lite0@1, vgg@2.",
        "library:default": "No worker has lite0@1.",
    }
    worker.redis.delete(keys.WORKERS)
    problem = assert_problem(client.get("/readyz"), 503, "unavailable")
    assert problem["detail"] == "Not ready: worker:search, worker:bulk."
    assert len(problem["errors"]) == 4


def test_nothing_is_taken_in_while_the_default_library_is_missing(
    client: Client, worker: StandIn
) -> None:
    for lane in ("search", "bulk"):
        worker.announce(lane)
    worker.serve("lite0")
    assert client.get("/readyz").status_code == 200
    worker.redis.delete(keys.LIBRARIES)  # as FLUSHALL does
    assert assert_problem(client.get("/readyz"), 503, "unavailable")["errors"] == [
        {"location": "library:default", "message": "No worker has made it yet."}
    ]
    raw: dict[str, Any] = {"data": b"x", "content_type": "image/png"}
    for answer in (
        client.post("/v1/images", **raw),
        client.post("/v1/images/bulk", data=b"x", content_type="application/zip"),
    ):
        problem = assert_problem(answer, 503, "unavailable")
        assert problem["detail"] == "Library 'default' is not there yet; a worker makes it soon."
        assert "Retry-After" in answer.headers
    assert worker.queued() == []


def test_a_library_that_has_lost_embeddings_is_named_and_takes_nothing(
    client: Client, worker: StandIn
) -> None:
    for lane in ("search", "bulk"):
        worker.announce(lane)
    worker.serve("lite0")
    worker.serve("lite0", library="art")
    art = worker.catalog.library("art")
    damage = Damage(n_images=3, n_vectors={"lite0@1": 0})
    worker.catalog.put_damages({art.id: damage})
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["lacks"]) == (200, {"art": damage.describe()})
    answer = client.post("/v1/images?library=art", data=b"x", content_type="image/png")
    problem = assert_problem(answer, 503, "library-damaged")
    assert problem["detail"] == damage.describe()
    assert "0 of lite0@1" in problem["detail"]

    worker.catalog.put_damages({art.id: damage, "default": damage})
    problem = assert_problem(client.get("/readyz"), 503, "unavailable")
    assert [one["location"] for one in problem["errors"]] == ["library:art", "library:default"]
    worker.catalog.put_damages({})
    assert client.get("/readyz").json["lacks"] == {}


def test_the_probe_tells_a_listening_port_from_a_closed_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert is_listening(f"http://127.0.0.1:{port}")
        assert is_listening(f"127.0.0.1:{port}")
    assert not is_listening(f"http://127.0.0.1:{port}")
    assert not is_listening("http://no-such-host.invalid:1")
    assert not is_listening("")


def test_a_probe_leaves_time_to_answer_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where packets are dropped, and nothing but the limit ends the wait."""
    asked: list[Any] = []

    def drop(address: Any, timeout: float) -> Any:
        asked.append((address, timeout))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", drop)
    assert not is_listening("http://milvus:1")
    assert asked == [(("milvus", 1), PROBE_TIMEOUT_S)]
    assert 0.1 <= PROBE_TIMEOUT_S < 1


def test_no_work_is_taken_while_milvus_is_down(settings: Settings, worker: StandIn) -> None:
    worker.serve("lite0")
    worker.add(image("a" * 64))
    worker.announce("search")
    uri = f"http://127.0.0.1:{free_port()}"
    client = client_of(settings.model_copy(update={"milvus_uri": uri}))
    raw: dict[str, Any] = {"data": b"x", "content_type": "image/png"}
    for answer in (
        client.post("/v1/images", **raw),
        client.post("/v1/images/bulk", data=b"x", content_type="application/zip"),
        client.post("/v1/search", json={"image_id": "a" * 64}),
        client.post("/v1/compare", json={"image_ids": ["a" * 64] * 2}),
        client.post("/v1/duplicates", json={}),
        client.delete(f"/v1/images/{'a' * 64}"),
        client.get(f"/v1/images/{'a' * 64}/thumbnail"),
    ):
        problem = assert_problem(answer, 503, "unavailable")
        assert problem["detail"] == "Milvus does not accept connections."
    assert worker.queued() == []
    assert worker.redis.keys("tl:job*") == []


def test_every_read_answers_503_without_redis(settings: Settings) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    client = client_of(settings.model_copy(update={"redis_url": url}))
    for path in ("images", "jobs", "jobs/x", "jobs/x/items", "models", "libraries", "stats"):
        assert_problem(client.get(f"/v1/{path}"), 503, "unavailable")


def test_the_document_is_valid_and_says_what_is_served(client: Client) -> None:
    document = client.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(document).validate()
    operations = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert operations == {
        "GET /v1/libraries/{name}",
        "DELETE /v1/libraries/{name}",
        "POST /v1/libraries/{name}/rollback",
        "POST /v1/compare",
        "POST /v1/duplicates",
        "POST /v1/images",
        "GET /v1/images",
        "POST /v1/images/bulk",
        "POST /v1/images/missing",
        "POST /v1/images/delete",
        "GET /v1/images/count",
        "GET /v1/images/{image_id}/vectors",
        "GET /v1/images/{image_id}",
        "PATCH /v1/images/{image_id}",
        "DELETE /v1/images/{image_id}",
        "GET /v1/images/{image_id}/content",
        "GET /v1/images/{image_id}/thumbnail",
        "POST /v1/search",
        "GET /v1/jobs",
        "GET /v1/jobs/{job_id}",
        "GET /v1/jobs/{job_id}/items",
        "GET /v1/jobs/{job_id}/events",
        "POST /v1/jobs/{job_id}/cancel",
        "POST /v1/jobs/{job_id}/retry",
        "GET /v1/models",
        "GET /v1/models/{name}",
        "GET /v1/libraries",
        "PUT /v1/libraries/{name}",
        "POST /v1/reconcile",
        "GET /v1/stats",
        "GET /livez",
        "GET /readyz",
    }


def test_the_document_has_every_body_and_pictures_first(client: Client) -> None:
    paths = client.get("/openapi.json").json["paths"]

    def body(path: str) -> list[str]:
        return list(paths[path]["post"]["requestBody"]["content"])

    forms = {"multipart/form-data"}
    assert set(body("/v1/images")) == {*forms, "image/*", "application/octet-stream"}
    assert set(body("/v1/search")) == {*forms, "application/json"}
    assert set(body("/v1/compare")) == {*forms, "application/json"}
    kinds = {*forms, *ZIP_TYPES, *TAR_TYPES, *LISTING_TYPES}
    assert set(body("/v1/images/bulk")) == kinds
    for name, media_type in (("content", "image/*"), ("thumbnail", "image/jpeg")):
        answers = paths[f"/v1/images/{{image_id}}/{name}"]["get"]["responses"]
        for status in ("200", "206"):
            assert list(answers[status]["content"]) == [media_type, "application/octet-stream"]


def test_every_error_in_the_document_is_a_problem(client: Client) -> None:
    document = client.get("/openapi.json").json
    answers = [
        (status, answer)
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        if not status.startswith(("2", "3"))
    ]
    assert answers
    for _, answer in answers:
        assert list(answer["content"]) == ["application/problem+json"]
        [media] = answer["content"].values()
        assert media["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
    problem = assert_problem(client.get("/nowhere"), 404, "not-found")
    assert set(document["components"]["schemas"]["ProblemDetails"]["properties"]) == set(problem)
    ids = [
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
    ]
    assert len(ids) == len(set(ids))


def test_the_page_for_people_loads_nothing_from_elsewhere(client: Client) -> None:
    assert client.get("/").headers["Location"] == "/docs"
    page = client.get("/docs")
    assert page.content_type.startswith("text/html")
    assert "://" not in page.text
    for path in ("js/swagger-ui-bundle.js", "css/swagger-ui.css", "images/swagger.svg"):
        assert f"docs/static/{path}" in page.text
        assert client.get(f"/docs/static/{path}").status_code == 200


@pytest.mark.parametrize("given", ["a", "A.b_c-9", "x" * 128])
def test_the_callers_request_id_is_kept(client: Client, given: str) -> None:
    for path in ("/livez", "/nowhere", "/v1/jobs/none"):
        response = client.get(path, headers={"X-Request-ID": given})
        assert response.headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 129, "é", 'a"b'])
def test_a_bad_request_id_is_replaced(client: Client, given: str) -> None:
    ids = {
        client.get("/livez", headers={"X-Request-ID": given}).headers["X-Request-ID"]
        for _ in range(2)
    }
    assert len(ids) == 2
    assert given not in ids


def test_http_errors_are_problems(client: Client) -> None:
    assert_problem(client.get("/nowhere"), 404, "not-found")
    response = client.put("/v1/images")
    assert (response.status_code, response.content_type) == (405, "application/problem+json")
    assert response.json["type"] == "about:blank"
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


def test_a_fault_leaks_nothing(
    settings: Settings, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings, build_services(settings))

    @app.get("/fault")
    def fault() -> str:
        raise RuntimeError("the secret path /srv/secret")

    with caplog.at_level(logging.ERROR):
        response = app.test_client().get("/fault")
    problem = assert_problem(response, 500, "internal")
    assert "secret" not in response.text
    assert "RuntimeError" not in str(problem)
    assert "the secret path" in caplog.text
