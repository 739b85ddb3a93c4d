"""What a key lets its caller do, and what the others are told."""

from __future__ import annotations

import os
import re
import shutil
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.callers import caller_of
from support.records import image
from support.requests import Body, assert_problem, client_of, form_body

from twinlens.api.access.checks import PUBLIC_BLUEPRINT, SCHEME
from twinlens.api.access.keys import SCOPES, Grant, Scope, new_key
from twinlens.shared.libraries import new_library
from twinlens.shared.messages import now

if TYPE_CHECKING:
    from support.callers import Caller
    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings

# By operation.
NEEDS: dict[str, Scope | None] = {
    "isAlive": None,
    "isReady": None,
    "addImage": "write",
    "addImages": "write",
    "listImages": "read",
    "countImages": "read",
    "listMissingImages": "read",
    "deleteImages": "write",
    "getImage": "read",
    "getImageContent": "read",
    "getImageThumbnail": "read",
    "getImageVectors": "read",
    "changeImage": "write",
    "deleteImage": "write",
    "search": "read",
    "compare": "read",
    "findDuplicates": "read",
    "listJobs": "read",
    "getJob": "read",
    "listJobItems": "read",
    "streamJobEvents": "read",
    "cancelJob": "write",
    "retryJob": "write",
    "listModels": "read",
    "getModel": "read",
    "listLibraries": "read",
    "getLibrary": "read",
    "putLibrary": "admin",
    "deleteLibrary": "admin",
    "rollBackLibrary": "admin",
    "reconcile": "admin",
    "getStats": "read",
}
PUBLIC = ("/livez", "/readyz", "/openapi.json", "/docs", "/docs/start.js", "/")


def operations(client: Client) -> dict[str, tuple[str, str, Any]]:
    """Returns method, path and what is said of each operation, by its id."""
    paths = client.get("/openapi.json").json["paths"]
    return {
        said["operationId"]: (method.upper(), re.sub(r"\{\w+\}", "a" * 64, path), said)
        for path, methods in paths.items()
        for method, said in methods.items()
    }


@pytest.fixture
def reader(settings: Settings, redis: Redis) -> Caller:
    return caller_of(settings, "read")


@pytest.fixture
def art(worker: StandIn) -> None:
    worker.serve("lite0", "phash")
    worker.catalog.ensure_library(new_library("art", ["lite0@1", "phash@1"]))


# Scopes.


def test_every_route_says_what_it_needs(client: Client) -> None:
    app: Any = client.application
    for rule in app.url_map.iter_rules():
        if rule.endpoint.partition(".")[0] == PUBLIC_BLUEPRINT:
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            operation = getattr(app.paths[path], method.lower())
            assert operation.security, f"{method} {rule.rule} says nothing"


def test_the_document_says_what_each_operation_needs(client: Client) -> None:
    document = client.get("/openapi.json").json
    assert document["components"]["securitySchemes"][SCHEME]["scheme"] == "bearer"
    said = {name: operation["security"] for name, (*_, operation) in operations(client).items()}
    assert said == {
        name: [{}] if scope is None else [{SCHEME: [scope]}] for name, scope in NEEDS.items()
    }


@pytest.mark.parametrize("name", NEEDS)
def test_a_key_does_what_its_scope_allows(client: Client, settings: Settings, name: str) -> None:
    method, path, _ = operations(client)[name]
    needed = NEEDS[name]
    for scope in SCOPES:
        headers = caller_of(settings, scope).headers
        answer = client.open(path, method=method, headers=headers)
        if needed is None or SCOPES.index(needed) <= SCOPES.index(scope):
            assert answer.status_code not in (401, 403)
        else:
            problem = assert_problem(answer, 403, "not-allowed")
            assert f"the scope {needed}" in problem["detail"]


ANOTHER = new_key(Grant(scope="admin")).key
NO_KEYS: list[dict[str, str]] = [
    {},
    {"Authorization": f"Bearer {ANOTHER}"},
    {"Authorization": ANOTHER},
    {"Authorization": "Bearer key"},
    {"Authorization": "Bearer "},
    {"Authorization": "Basic dHdpbmxlbnM6a2V5"},
]


@pytest.mark.parametrize("name", [name for name, scope in NEEDS.items() if scope])
def test_without_a_key_nobody_does_anything(client: Client, reader: Caller, name: str) -> None:
    method, path, _ = operations(client)[name]
    for headers in NO_KEYS:
        answer = client.open(path, method=method, headers=headers)
        assert_problem(answer, 401, "key-needed")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_scheme_is_written_in_any_case(settings: Settings, reader: Caller) -> None:
    headers = {"Authorization": f"bearer {reader.key}"}
    assert client_of(settings).get("/v1/libraries", headers=headers).status_code == 200


@pytest.mark.parametrize("path", PUBLIC)
def test_what_describes_the_service_needs_none(
    settings: Settings, reader: Caller, path: str
) -> None:
    assert client_of(settings).get(path).status_code not in (401, 403)
    wrong = {"Authorization": "Bearer wrong"}
    assert client_of(settings).get(path, headers=wrong).status_code not in (401, 403)


@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/bulk"])
@pytest.mark.parametrize(("has_key", "status"), [(False, 401), (True, 403)])
def test_the_body_of_what_is_refused_is_not_read(
    settings: Settings, reader: Caller, path: str, has_key: bool, status: int
) -> None:
    body = Body([AssertionError("it was read")])
    headers = {"Content-Type": "application/zip"} | (reader.headers if has_key else {})
    environ = {"wsgi.input": body, "wsgi.input_terminated": True}
    answer = client_of(settings).post(path, headers=headers, environ_overrides=environ)
    assert answer.status_code == status


def test_a_path_answers_other_methods_than_its_own_before_it_asks_for_a_key(
    settings: Settings, reader: Caller
) -> None:
    answer = client_of(settings).delete("/v1/search")
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}
    assert client_of(settings).get("/v1/nowhere").status_code == 404


# Which keys are good, and when.


def test_before_there_is_a_key_none_is_needed_and_any_may_be_sent(client: Client) -> None:
    for headers in ({}, {"Authorization": "Bearer of another service"}):
        assert client.get("/v1/libraries", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "photos.example"])
def test_where_other_machines_reach_the_service_one_is_needed_from_the_start(
    settings: Settings, redis: Redis, host: str
) -> None:
    client = client_of(settings.model_copy(update={"host": host}))
    assert client.get("/v1/libraries").status_code == 401
    assert client.get("/livez").status_code == 200


def test_a_new_key_counts_at_once_and_a_revoked_one_no_longer(
    settings: Settings, client: Client
) -> None:
    assert client.get("/v1/libraries").status_code == 200
    one, other = (caller_of(settings, "read") for _ in range(2))
    assert client.get("/v1/libraries").status_code == 401
    assert client.get("/v1/libraries", headers=one.headers).status_code == 200
    one.revoke()
    problem = assert_problem(client.get("/v1/libraries", headers=one.headers), 401, "key-needed")
    assert problem["detail"] == f"Key {one.id} is revoked."
    assert client.get("/v1/libraries", headers=other.headers).status_code == 200
    other.revoke()
    assert client.get("/v1/libraries").status_code == 401, "no key is left that is good"


def test_a_key_ends_when_it_expires(settings: Settings, client: Client) -> None:
    caller = caller_of(settings, "read", expires_at=now() - timedelta(seconds=1))
    problem = assert_problem(caller.client.get("/v1/libraries"), 401, "key-needed")
    assert problem["detail"] == f"Key {caller.id} is expired."
    assert client.get("/v1/libraries").status_code == 401
    later = caller_of(settings, "read", expires_at=now() + timedelta(days=1))
    assert later.client.get("/v1/libraries").status_code == 200


def test_who_empties_redis_neither_opens_the_service_nor_locks_its_callers_out(
    settings: Settings, reader: Caller, redis: Redis
) -> None:
    redis.flushall()
    assert client_of(settings).get("/v1/libraries").status_code == 401
    assert reader.client.get("/v1/libraries").status_code == 200
    assert [key for key in redis.keys("*") if reader.id in key] == []


def test_who_takes_the_records_away_opens_nothing(
    settings: Settings, client: Client, reader: Caller
) -> None:
    assert client.get("/v1/libraries").status_code == 401
    shutil.rmtree(settings.keys_dir)
    for headers in ({}, reader.headers):
        assert client.get("/v1/libraries", headers=headers).status_code == 401


def test_where_records_cannot_be_read_nothing_is_answered_but_health(
    settings: Settings, client: Client
) -> None:
    settings.keys_dir.symlink_to(settings.keys_dir)  # a circle
    answer = client.get("/v1/libraries")
    assert_problem(answer, 503, "unavailable")
    assert str(settings.keys_dir) not in answer.text
    assert client.get("/livez").status_code == 200


@pytest.mark.timeout(60)
def test_whether_the_service_is_alive_is_answered_without_a_look_at_the_disk(
    settings: Settings, reader: Caller
) -> None:
    record = settings.keys_dir / f"{reader.id}.json"
    record.unlink()
    os.mkfifo(record)  # who reads it waits
    assert reader.client.get("/livez").status_code == 200


# Keys that are held to some libraries.


@pytest.fixture
def held(settings: Settings, art: None) -> Caller:
    """May do everything, to one library."""
    return caller_of(settings, "admin", libraries=["art"])


@pytest.fixture
def everybody(settings: Settings, held: Caller) -> Client:
    return caller_of(settings, "admin").client


IN_DEFAULT: list[tuple[str, str, Any]] = [
    ("GET", "/v1/images", None),
    ("GET", "/v1/images?library=default", None),
    ("GET", "/v1/images?library=nowhere", None),
    ("GET", "/v1/images/count", None),
    ("POST", "/v1/images/missing", {"ids": []}),
    ("POST", "/v1/images/delete", {"ids": ["a" * 64]}),
    ("GET", f"/v1/images/{'a' * 64}", None),
    ("GET", f"/v1/images/{'a' * 64}/content", None),
    ("GET", f"/v1/images/{'a' * 64}/thumbnail", None),
    ("GET", f"/v1/images/{'a' * 64}/vectors", None),
    ("PATCH", f"/v1/images/{'a' * 64}", {"name": "mine"}),
    ("DELETE", f"/v1/images/{'a' * 64}", None),
    ("POST", "/v1/search", {"image_id": "a" * 64}),
    ("POST", "/v1/compare", {"image_ids": ["a" * 64, "b" * 64]}),
    ("POST", "/v1/duplicates", {}),
    ("GET", "/v1/jobs?library=default", None),
    ("GET", "/v1/libraries/default", None),
    ("GET", "/v1/libraries/nowhere", None),
    ("PUT", "/v1/libraries/default", {"models": ["phash"]}),
    ("PUT", "/v1/libraries/new", {"models": ["phash"]}),
    ("DELETE", "/v1/libraries/default", None),
    ("DELETE", "/v1/libraries/nowhere", None),
    ("POST", "/v1/libraries/default/rollback", None),
    ("POST", "/v1/reconcile", {"library": "default"}),
    ("POST", "/v1/reconcile", {"library": "nowhere"}),
]


@pytest.mark.parametrize(("method", "path", "body"), IN_DEFAULT)
def test_a_held_key_does_nothing_to_another_library_though_it_be_not_there(
    held: Caller, worker: StandIn, method: str, path: str, body: Any
) -> None:
    worker.add(image("a" * 64))
    before = worker.catalog.libraries()
    answer = held.client.open(path, method=method, json=body)
    problem = assert_problem(answer, 403, "not-allowed")
    assert re.search(r"not for library '(default|nowhere|new)'", problem["detail"])
    assert worker.catalog.libraries() == before
    assert worker.queued() == []


@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/bulk"])
def test_a_held_key_uploads_nothing_to_another_library(
    held: Caller, worker: StandIn, path: str
) -> None:
    name = "files" if path.endswith("bulk") else "file"
    form = form_body([(name, ("a.jpg", b"x"))])
    assert_problem(held.client.post(path, **form), 403, "not-allowed")
    assert held.client.post(f"{path}?library=art", **form).status_code == 202


def test_every_operation_on_a_library_is_among_those_tried(client: Client) -> None:
    """What names none: models, and what lists or follows, which has tests of its own."""
    tried = {(method, path.partition("?")[0]) for method, path, _ in IN_DEFAULT}
    tried |= {("POST", "/v1/images"), ("POST", "/v1/images/bulk")}
    others = {"listModels", "getModel", "listLibraries", "getStats"}
    others |= {name for name, (_, path, _) in operations(client).items() if "/jobs/" in path}
    left = {
        name
        for name, (method, path, _) in operations(client).items()
        if NEEDS[name]
        and (method, path) not in tried
        and (method, re.sub("/libraries/a+", "/libraries/default", path)) not in tried
    }
    assert left == others


def test_a_held_key_is_told_of_its_libraries_alone(
    held: Caller, everybody: Client, worker: StandIn
) -> None:
    listed = everybody.get("/v1/libraries").json["items"]
    assert [one["name"] for one in listed] == ["art", "default"]
    assert held.client.get("/v1/libraries").json["items"] == [listed[0]]
    compared = held.client.post("/v1/reconcile", json={"check": True}).json["items"]
    assert [job["library"] for job in compared] == ["art"]
    assert set(everybody.get("/v1/stats").json["libraries"]) == {"art", "default"}
    assert set(held.client.get("/v1/stats").json["libraries"]) == {"art"}


def upload(client: Client, library: str, **headers: str) -> str:
    form = form_body([("file", ("a.jpg", library.encode()))])
    answer = client.post(f"/v1/images?library={library}", headers=headers, **form)
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


JOB_PATHS = [("GET", ""), ("GET", "/items"), ("GET", "/events"), ("POST", "/cancel")]
JOB_PATHS += [("POST", "/retry")]


@pytest.mark.parametrize(("method", "path"), JOB_PATHS)
def test_a_held_key_does_not_know_the_jobs_of_other_libraries(
    held: Caller, everybody: Client, worker: StandIn, method: str, path: str
) -> None:
    job_id = upload(everybody, "default")
    expired = worker.jobs.get(upload(everybody, "default"))
    worker.redis.hset(f"tl:job:{expired.id}", "expires_at", repr(time.time() - 1))
    for one in (job_id, expired.id):
        hidden = held.client.open(f"/v1/jobs/{one}{path}", method=method)
        problem = assert_problem(hidden, 404, "job-not-found")
        assert problem["detail"] == f"There is no job {one!r}."
    absent = held.client.open(f"/v1/jobs/{'0' * 32}{path}", method=method)
    assert absent.json["detail"] == f"There is no job {'0' * 32!r}."
    assert worker.jobs.get(job_id).status == "queued"
    assert held.client.get(f"/v1/jobs/{upload(held.client, 'art')}").status_code == 200


def test_a_held_key_lists_the_jobs_of_its_libraries_in_whole_pages(
    held: Caller, everybody: Client
) -> None:
    mine: list[str] = []
    for _ in range(3):
        mine.insert(0, upload(held.client, "art"))
        upload(everybody, "default")
    page = held.client.get("/v1/jobs?limit=2").json
    assert [job["id"] for job in page["items"]] == mine[:2]
    rest = held.client.get(f"/v1/jobs?limit=2&cursor={page['next_cursor']}").json
    assert [job["id"] for job in rest["items"]] == mine[2:]
    assert len(everybody.get("/v1/jobs").json["items"]) == 6


def test_readiness_names_libraries_to_those_alone_who_may_know_of_them(
    settings: Settings, held: Caller, everybody: Client, worker: StandIn
) -> None:
    def told(client: Client) -> tuple[int, set[str]]:
        answer = client.get("/readyz")
        if answer.status_code == 200:
            assert set(answer.json["lacks"]) == set(answer.json["missing_models"])
            return 200, set(answer.json["lacks"])
        return answer.status_code, {error["location"] for error in answer.json["errors"]}

    nobody = client_of(settings)
    for lane in ("search", "bulk"):
        worker.announce(lane)
    worker.catalog.ensure_library(new_library("more", ["vgg@1"]))
    worker.catalog.publish_models([])
    every = {"library:art", "library:default", "library:more"}
    assert told(everybody) == (503, every)
    assert told(held.client) == (503, {"library:art"})
    assert told(nobody) == (503, set())
    worker.serve("lite0")
    assert told(everybody) == (200, {"art", "more"})
    assert told(held.client) == (200, {"art"})
    assert told(nobody) == (200, set())


# What two keys have to do with each other.


def test_one_key_does_not_get_the_job_of_anothers_idempotency_key(
    settings: Settings, worker: StandIn
) -> None:
    one, other = (caller_of(settings, "write") for _ in range(2))
    worker.serve("phash")
    key = {"Idempotency-Key": "the same"}
    first = upload(one.client, "default", **key)
    assert upload(one.client, "default", **key) == first
    assert upload(other.client, "default", **key) != first


def test_who_may_write_does_not_give_up_a_change_of_a_library(
    settings: Settings, everybody: Client, worker: StandIn
) -> None:
    worker.add(image("a" * 64, library="art"))
    job = everybody.put("/v1/libraries/art", json={"models": ["phash"], "metric": "IP"})
    assert (job.status_code, job.json["kind"]) == (202, "reindex")
    path = f"/v1/jobs/{job.json['id']}/cancel"
    problem = assert_problem(caller_of(settings, "write").client.post(path), 403, "not-allowed")
    assert "the scope admin" in problem["detail"]
    assert everybody.post(path).json["status"] == "cancelled"
