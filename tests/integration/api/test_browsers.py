"""Pages of other sites in the same browser: what they may not ask, and what answers allow them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.requests import assert_problem, client_of

if TYPE_CHECKING:
    from support.requests import Client

    from twinlens.shared.settings import Settings

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
