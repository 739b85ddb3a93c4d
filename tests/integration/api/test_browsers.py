"""Pages of other sites in the same browser: what they may not ask, and what answers allow them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError
from support.callers import caller_of
from support.requests import assert_problem, client_of

from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from support.requests import Client

    from twinlens.shared.redis.client import Redis

PUBLIC = "photos.example"


@pytest.fixture
def behind_proxy(settings: Settings) -> Client:
    """A service that is reached under a name of its own as well."""
    return client_of(settings.model_copy(update={"public_hosts": ["Photos.example"]}))


@pytest.mark.parametrize("path", ["/livez", "/v1/images", "/docs", "/nowhere"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", PUBLIC, "a b", "", "["]
)
def test_a_name_that_is_not_the_services_is_not_served(
    client: Client, path: str, host: str
) -> None:
    answer = client.get(path, headers={"Host": host})
    problem = assert_problem(answer, 421, "unknown-host")
    assert "TWINLENS_PUBLIC_HOSTS" in problem["detail"]


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7"],
)
def test_localhost_and_addresses_need_no_name(client: Client, host: str) -> None:
    assert client.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", [PUBLIC, "PHOTOS.example:443"])
def test_a_public_name_is_served(behind_proxy: Client, host: str) -> None:
    assert behind_proxy.get("/livez", headers={"Host": host}).status_code == 200


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/libraries/default/rollback"),
        ("POST", "/v1/images"),
        ("DELETE", "/v1/libraries/default"),
        ("PATCH", f"/v1/images/{'0' * 64}"),
        ("PUT", "/v1/libraries/new"),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    client: Client, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = client.open(path, method=method, headers=headers)
    assert_problem(answer, 403, "foreign-origin")
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("headers", FOREIGN)
def test_what_changes_nothing_is_answered_but_not_to_be_read_there(
    client: Client, headers: dict[str, str]
) -> None:
    answer = client.get("/livez", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},  # not a browser
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost:8000", "Host": "localhost:8000"},
        {"Origin": "http://[::1]:8000", "Host": "[::1]:8000", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_the_services_own_pages_may_ask(client: Client, headers: dict[str, str]) -> None:
    answer = client.post("/v1/libraries/nowhere/rollback", headers=headers)
    assert_problem(answer, 404, "library-not-found")


def test_a_proxy_may_pass_on_another_host_than_its_pages_have(behind_proxy: Client) -> None:
    headers = {"Origin": f"https://{PUBLIC}", "Host": "127.0.0.1:8000"}
    answer = behind_proxy.post("/v1/libraries/nowhere/rollback", headers=headers)
    assert_problem(answer, 404, "library-not-found")


# Pages of origins that are allowed (CORS).

PAGE = "https://photos.example"


@pytest.fixture
def open_to_page(settings: Settings, redis: Redis) -> Client:
    """A service that lets pages of one other origin ask, and needs a key."""
    caller_of(settings, "admin")
    return client_of(settings.model_copy(update={"cors_origins": [PAGE, "http://[::1]:3000"]}))


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/images", {"GET", "POST"}),
        (f"/v1/images/{'0' * 64}", {"GET", "PATCH", "DELETE"}),
        ("/v1/libraries/art", {"GET", "PUT", "DELETE"}),
    ],
)
def test_an_allowed_page_is_told_without_a_key_what_it_may_send(
    open_to_page: Client, path: str, methods: set[str]
) -> None:
    asked = {
        "Origin": PAGE,
        "Sec-Fetch-Site": "cross-site",
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization,idempotency-key",
    }
    answer = open_to_page.options(path, headers=asked)
    assert answer.status_code == 200
    told = answer.headers
    assert told["Access-Control-Allow-Origin"] == PAGE
    assert set(told["Access-Control-Allow-Methods"].split(", ")) >= methods
    sent = {one.lower() for one in told["Access-Control-Allow-Headers"].split(", ")}
    assert sent >= {"authorization", "content-type", "idempotency-key", "prefer", "range"}
    assert 0 < int(told["Access-Control-Max-Age"]) <= 7200
    assert "Origin" in told["Vary"]


def test_an_allowed_page_reads_answers_and_changes_things(
    open_to_page: Client, settings: Settings
) -> None:
    key = caller_of(settings, "admin").headers
    headers = key | {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    answers = [
        open_to_page.get("/v1/libraries", headers=headers),
        open_to_page.post("/v1/libraries/nowhere/rollback", headers=headers),
        open_to_page.get("/v1/libraries", headers={"Origin": PAGE}),
        open_to_page.get("/nowhere", headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 401, 404]
    for told in (answer.headers for answer in answers):
        assert told["Access-Control-Allow-Origin"] == PAGE
        assert told["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert "Origin" in told["Vary"]
        seen = set(told["Access-Control-Expose-Headers"].split(", "))
        assert seen >= {"Location", "Retry-After", "ETag", "X-Request-ID", "RateLimit"}
        assert "Access-Control-Allow-Credentials" not in told


@pytest.mark.parametrize(
    "origin",
    [
        "https://photos.example.evil",
        "https://evil.example",
        "http://photos.example",
        "https://photos.example:444",
        "https://photosxexample",
        "null",
        "",
        "*",
    ],
)
def test_pages_of_other_origins_are_told_nothing(open_to_page: Client, origin: str) -> None:
    headers = {"Origin": origin}
    asked = headers | {"Access-Control-Request-Method": "DELETE"}
    for told in (
        open_to_page.options("/v1/images", headers=asked).headers,
        open_to_page.get("/livez", headers=headers).headers,
    ):
        assert [name for name, _ in told if name.startswith("Access-Control")] == []
        assert told["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Origin" in told["Vary"], "a cache may not give it to the page"
    refused = open_to_page.post("/v1/libraries/nowhere/rollback", headers=headers)
    assert_problem(refused, 403, "foreign-origin")


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "photos.example",
        "https://photos.example/",
        "https://*.example",
        "ftp://a.b",
        "",
    ],
)
def test_what_is_no_origin_is_no_setting(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=[origin])


def test_an_origin_is_compared_as_browsers_write_it() -> None:
    assert Settings(cors_origins=["HTTPS://Photos.Example"]).cors_origins == [PAGE]


@pytest.mark.parametrize("path", ["/livez", "/docs", "/docs/static/css/swagger-ui.css", "/nowhere"])
def test_no_answer_is_shown_within_another_sites_page(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_the_page_for_people_runs_no_script_of_its_own_text(client: Client) -> None:
    page = client.get("/docs")
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert page.text.count("<script") == page.text.count("<script src=") == 2
    assert client.get("/docs/start.js").content_type.startswith("text/javascript")
