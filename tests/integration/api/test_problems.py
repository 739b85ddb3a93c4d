"""What a request that failed is told: one answer for each kind of error, and nothing secret."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import kombu.exceptions
import pytest
import redis.exceptions
from support.requests import Body, assert_problem, client_of
from werkzeug import exceptions as http
from werkzeug.datastructures import WWWAuthenticate

from twinlens.api.app import create_app
from twinlens.api.reading.uploads import MAX_QUERY_BYTES
from twinlens.api.services import build_services
from twinlens.shared import errors
from twinlens.shared.errors import FieldError, TwinlensError

if TYPE_CHECKING:
    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


def kinds(root: type[TwinlensError] = TwinlensError) -> list[type[TwinlensError]]:
    return [root, *(kind for one in root.__subclasses__() for kind in kinds(one))]


def asked(settings: Settings, error: Exception) -> Any:
    """Returns the answer of a route that fails so."""
    app = create_app(settings, build_services(settings))

    @app.get("/fail")
    def fail() -> str:
        raise error

    return app.test_client().get("/fail")


@pytest.mark.parametrize("kind", kinds())
def test_every_error_has_its_status_and_a_time_to_come_again_if_that_helps(
    settings: Settings, kind: type[TwinlensError]
) -> None:
    fields = [FieldError(location="/k", message="It is bad.")]
    answer = asked(settings, kind("So it is.", fields))
    problem = assert_problem(answer, kind.status, kind.code)
    assert (problem["title"], problem["detail"]) == (kind.title, "So it is.")
    assert problem["errors"] == [{"location": "/k", "message": "It is bad."}]
    assert answer.headers.get("Retry-After") == ("5" if kind.retryable else None)


def test_who_should_come_again_is_told_so() -> None:
    retryable = {kind.code for kind in kinds() if kind.retryable}
    assert retryable == {
        "upload-in-progress",
        "upload-stalled",
        "source-failed",
        "rate-limited",
        "unavailable",
        "queue-full",
        "storage-full",
    }


@pytest.mark.parametrize("kind", [errors.QueueFull, errors.JobNotFound])
def test_a_time_that_is_known_better_is_told(settings: Settings, kind: type[TwinlensError]) -> None:
    answer = asked(settings, kind("So it is.", retry_after_s=77))
    assert answer.headers["Retry-After"] == "77"


SECRET = "/srv/secret"


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (redis.exceptions.ConnectionError(SECRET), 503, "unavailable", "5"),
        (redis.exceptions.TimeoutError(SECRET), 503, "unavailable", "5"),
        (redis.exceptions.ResponseError(SECRET), 503, "unavailable", "5"),
        (kombu.exceptions.OperationalError(SECRET), 503, "unavailable", "5"),
        (OSError(errno.ENOSPC, SECRET, SECRET), 507, "storage-full", "5"),
        (OSError(errno.EDQUOT, SECRET, SECRET), 507, "storage-full", "5"),
        (OSError(errno.EACCES, SECRET, SECRET), 500, "internal", None),
        (FileNotFoundError(errno.ENOENT, SECRET, SECRET), 500, "internal", None),
        (KeyError(SECRET), 500, "internal", None),
        (http.BadRequest(), 400, "bad-request", None),
        (http.NotFound(), 404, "not-found", None),
        (http.RequestEntityTooLarge(), 413, "payload-too-large", None),
        (http.UnsupportedMediaType(), 415, "unsupported-media", None),
        (http.UnprocessableEntity(), 422, "validation-failed", None),
    ],
)
def test_what_others_raise_is_told_as_what_it_means(
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = asked(settings, error)
    problem = assert_problem(answer, status, code)
    assert answer.headers.get("Retry-After") == retry_after
    assert problem["detail"]
    assert SECRET not in answer.text
    if not isinstance(error, http.HTTPException):
        # The log has what the answer leaves out; as an error where it is a fault of ours.
        [record] = [one for one in caplog.records if one.name == "twinlens.api.problems"]
        assert record.levelno == (logging.ERROR if code == "internal" else logging.WARNING)
        assert record.exc_info is not None
        assert record.exc_info[1] is error


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (http.MethodNotAllowed(["GET"]), "Allow", "GET"),
        (http.RequestedRangeNotSatisfiable(9), "Content-Range", "bytes */9"),
        (http.Unauthorized(www_authenticate=WWWAuthenticate("basic")), "WWW-Authenticate", "Basic"),
        (http.ServiceUnavailable(retry_after=9), "Retry-After", "9"),
    ],
)
def test_a_status_without_a_kind_of_its_own_keeps_its_headers(
    settings: Settings, error: http.HTTPException, name: str, value: str
) -> None:
    answer = asked(settings, error)
    assert answer.status_code == error.code
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"] == "about:blank"
    assert (answer.json["title"], answer.json["status"]) == (error.name, error.code)
    assert answer.headers[name].strip() == value
    assert int(answer.headers["Content-Length"]) == len(answer.data)


METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}


def documented(client: Client) -> dict[str, set[str]]:
    """The methods of each path, with names in place of its parameters."""
    paths = client.get("/openapi.json").json["paths"]
    assert len(paths) > 15
    return {
        re.sub("[{}]", "", path): {method.upper() for method in methods}
        for path, methods in paths.items()
    }


def allowed(answer: Any) -> set[str]:
    return set(answer.headers["Allow"].split(", "))


def test_every_path_answers_other_methods_with_those_that_it_has(
    client: Client, settings: Settings
) -> None:
    strict = client_of(settings.model_copy(update={"requests_per_minute": 1}))
    assert strict.get("/v1/models").status_code == 200
    for path, methods in documented(client).items():
        automatic = {"HEAD", "OPTIONS"} if "GET" in methods else {"OPTIONS"}
        for method in [*(METHODS - methods), "TRACE", "LOCK"]:
            for asked in (client, strict):
                answer = asked.open(
                    path,
                    method=method,
                    data=b"x" * 1_000_001,
                    headers={"Content-Encoding": "gzip"},
                    query_string={"no": "parameter"},
                )
                assert (answer.status_code, answer.json["status"]) == (405, 405), path
                assert answer.content_type == "application/problem+json"
                assert allowed(answer) == methods | automatic, path


def test_every_path_tells_its_options_and_heads(client: Client) -> None:
    for path, methods in documented(client).items():
        options = client.open(path, method="OPTIONS")
        assert (options.status_code, options.data) == (200, b"")
        assert options.headers["Content-Length"] == "0"
        head = client.open(path, method="HEAD")
        assert head.data == b""
        if "GET" in methods:
            assert allowed(options) == methods | {"HEAD", "OPTIONS"}
            same = client.get(path)
            assert head.status_code == same.status_code
            assert head.content_type == same.content_type
        else:
            assert allowed(options) == methods | {"OPTIONS"}
            assert head.status_code == 405


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/images"),
        ("POST", "/v1/images/bulk"),
        ("POST", "/v1/images/missing"),
        ("POST", "/v1/search"),
        ("POST", "/v1/compare"),
        ("POST", "/v1/duplicates"),
        ("PUT", "/v1/libraries/art"),
    ],
)
def test_every_body_has_a_type_and_a_limit(
    client: Client, redis: Redis, method: str, path: str
) -> None:
    for content_type in ("text/plain", "image", ""):
        answer = client.open(path, method=method, data=b"{}", content_type=content_type)
        assert_problem(answer, 415, "unsupported-media")
    large = client.open(path, method=method, data=b" " * 1_000_001, content_type="application/json")
    problem = assert_problem(large, 413, "payload-too-large")
    assert problem["detail"] == "The request has more than 1000000 bytes."


BODIES = [
    ("POST", "/v1/images", "image/jpeg"),
    ("POST", "/v1/images", "multipart/form-data; boundary=x"),
    ("POST", "/v1/images/bulk", "application/zip"),
    ("POST", "/v1/images/bulk", "application/gzip"),
    ("POST", "/v1/images/missing", "application/json"),
    ("PATCH", f"/v1/images/{'a' * 64}", "application/json"),
    ("POST", "/v1/search", "application/json"),
    ("POST", "/v1/compare", "application/json"),
    ("POST", "/v1/duplicates", "application/json"),
    ("PUT", "/v1/libraries/art", "application/json"),
]


@pytest.mark.parametrize("encoding", ["gzip", "identity, br", "x"])
@pytest.mark.parametrize(("method", "path", "content_type"), BODIES)
def test_a_body_that_is_encoded_is_refused_unread(
    client: Client, method: str, path: str, content_type: str, encoding: str
) -> None:
    body = Body([AssertionError("it is read")])
    answer = client.open(
        path,
        method=method,
        headers={"Content-Encoding": encoding, "Content-Type": content_type},
        environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True},
    )
    assert_problem(answer, 415, "unsupported-media")
    assert answer.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["identity", "Identity", "identity, identity", ""])
def test_a_body_that_is_as_it_is_is_taken(client: Client, encoding: str) -> None:
    data = {"file": (io.BytesIO(b"x"), "x.jpg")}
    for path in ("/v1/images", "/v1/search"):
        answer = client.post(path, data=data, headers={"Content-Encoding": encoding})
        assert answer.status_code == 202, answer.text
        data = {"file": (io.BytesIO(b"x"), "x.jpg")}


def test_a_body_of_exactly_the_limit_is_taken(settings: Settings, redis: Redis) -> None:
    client = client_of(
        settings.model_copy(update={"max_body_bytes": 100, "max_picture_bytes": 100})
    )
    whole = client.post("/v1/images", data=b"x" * 100, content_type="image/png")
    assert whole.status_code == 202
    over = client.post("/v1/images", data=b"x" * 101, content_type="image/png")
    assert_problem(over, 413, "payload-too-large")


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(settings: Settings, redis: Redis) -> None:
    client = client_of(
        settings.model_copy(update={"max_body_bytes": 100, "max_picture_bytes": 10**6})
    )

    def post(n_bytes: int) -> Any:
        return client.post(
            "/v1/images",
            environ_overrides={
                "CONTENT_TYPE": "image/png",
                "wsgi.input": io.BytesIO(b"x" * n_bytes),
                "wsgi.input_terminated": True,
            },
        )

    assert post(100).status_code == 202
    assert_problem(post(101), 413, "payload-too-large")


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/search", MAX_QUERY_BYTES),
        ("/v1/compare", MAX_QUERY_BYTES),
        ("/v1/duplicates", MAX_QUERY_BYTES),
    ],
)
def test_a_query_is_read_up_to_its_limit(
    client: Client, worker: StandIn, path: str, limit: int
) -> None:
    def post(n_bytes: int) -> Any:
        text = b"[" + b" " * (n_bytes - 2) + b"]"
        return client.post(path, data=text, content_type="application/json")

    assert_problem(post(limit), 422, "validation-failed")
    problem = assert_problem(post(limit + 1), 413, "payload-too-large")
    assert f"more than {limit} bytes" in problem["detail"]


@pytest.mark.parametrize(("path", "part"), [("/v1/search", "query"), ("/v1/images", "metadata")])
def test_a_json_part_is_read_up_to_its_limit(client: Client, path: str, part: str) -> None:
    limit = {"query": MAX_QUERY_BYTES, "metadata": 16 * 1024}[part]

    def post(n_bytes: int) -> Any:
        text = json.dumps({}).ljust(n_bytes)
        data = {part: text, "file": (io.BytesIO(b"x"), "x.jpg")}
        return client.post(path, data=data)

    assert post(limit).status_code == 202
    problem = assert_problem(post(limit + 1), 422, "validation-failed")
    [error] = problem["errors"]
    assert error == {"location": f"form:{part}", "message": f"It has more than {limit} bytes."}


MANY_TYPES = {"ids": [], "described": {"a" * 64: {"metadata": {"b": {}}}}}


@pytest.mark.parametrize(
    ("path", "options", "location"),
    [
        ("/v1/search", {"json": {"k": 0}}, "/k"),
        ("/v1/search", {"json": {"positive": ["x"]}}, "/positive/0"),
        ("/v1/search", {"json": {"weights": {"a/b~": -1}}}, "/weights/a~1b~0"),
        ("/v1/search", {"json": {"k": "3"}}, "/k"),
        ("/v1/search", {"json": {"region": [0, 0, 1]}}, "/region/3"),
        ("/v1/search", {"json": {"include_query": 1}}, "/include_query"),
        ("/v1/images/missing", {"json": {}}, "/ids"),
        ("/v1/images/missing", {"json": {"ids": [], "described": {"x": {}}}}, "/described/x"),
        ("/v1/images/missing", {"json": MANY_TYPES}, f"/described/{'a' * 64}/metadata/b"),
        ("/v1/search", {"data": {"query": '{"k": 0}'}}, "/k"),
        ("/v1/search", {"data": {"query": "{"}}, "form:query"),
        ("/v1/search", {"data": {"note": "hello"}}, "form:note"),
        ("/v1/search", {"data": {"query": "{}"}}, "form:file"),
        ("/v1/images", {"data": {"metadata": '{"a": {}}'}}, "/metadata/a"),
        ("/v1/images?naem=x", {"data": b"x", "content_type": "image/png"}, "query:naem"),
        ("/v1/images", {"headers": {"Idempotency-Key": "k" * 256}}, "header:Idempotency-Key"),
        ("/v1/libraries/A/rollback", {}, "path:name"),
    ],
)
def test_every_location_has_one_form(
    client: Client, path: str, options: dict[str, Any], location: str
) -> None:
    if isinstance(options.get("data"), dict):
        options = {"content_type": "multipart/form-data"} | options
        if location != "form:file":
            options["data"] = {"file": (io.BytesIO(b"x"), "x.png")} | options["data"]
    problem = assert_problem(client.post(path, **options), 422, "validation-failed")
    assert [error["location"] for error in problem["errors"]] == [location]


def test_a_form_has_each_part_as_often_as_is_taken(client: Client) -> None:
    def post(path: str, **parts: Any) -> Any:
        return client.post(path, data=parts)

    def pictures(n: int) -> list[Any]:
        return [(io.BytesIO(b"x"), "x.jpg") for _ in range(n)]

    assert post("/v1/images", file=pictures(1)).status_code == 202
    for path, parts, location in (
        ("/v1/images", {"file": pictures(2)}, "file"),
        ("/v1/images", {"metadata": ["{}", "{}"], "file": pictures(1)}, "metadata"),
        ("/v1/compare", {"file": pictures(3)}, "file"),
    ):
        problem = assert_problem(post(path, **parts), 422, "validation-failed")
        assert [error["location"] for error in problem["errors"]] == [f"form:{location}"]
        assert "Send at most" in problem["detail"]


def test_the_pictures_of_a_form_share_one_limit(client: Client, worker: StandIn) -> None:
    def post(*sizes: int) -> Any:
        files = [(io.BytesIO(b"x" * size), "x.jpg") for size in sizes]
        return client.post("/v1/search", data={"file": files})

    assert post(4_000, 6_000).status_code == 202
    assert_problem(post(4_000, 6_001), 413, "payload-too-large")
