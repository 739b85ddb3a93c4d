"""Keys at a real server: what goes on when one is revoked, and what the log has of them."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
from support.callers import caller_of
from support.requests import form_body
from support.servers import running_api, wait_until
from support.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"log_level": "DEBUG"})


@pytest.fixture
def api(settings: Settings, redis: Redis) -> Iterator[str]:
    StandIn(redis).serve("phash")
    with running_api(settings, settings.data_dir) as url:
        yield url


def test_who_follows_a_job_with_a_key_that_is_revoked_is_sent_away(
    api: str, settings: Settings
) -> None:
    caller, other = (caller_of(settings, "write") for _ in range(2))
    form = form_body([("file", ("a.jpg", b"x"))])
    posted = caller.client.post("/v1/images", **form)
    url = f"{api}{posted.json['links']['events']}"
    with httpx.stream("GET", url, headers=caller.headers, timeout=60, trust_env=False) as answer:
        assert answer.status_code == 200
        caller.revoke()
        answer.read()
    again = httpx.get(url, headers=caller.headers, trust_env=False)
    assert (again.status_code, again.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert httpx.get(f"{api}/v1/jobs", headers=other.headers, trust_env=False).json()["items"]


def test_a_revoked_key_is_refused_within_a_second(api: str, settings: Settings) -> None:
    assert httpx.get(f"{api}/v1/jobs", trust_env=False).status_code == 200
    caller = caller_of(settings, "read")
    with httpx.Client(base_url=api, trust_env=False) as nobody:
        assert nobody.get("/v1/jobs").status_code == 401
        assert nobody.get("/v1/jobs", headers=caller.headers).status_code == 200
        caller.revoke()
        assert nobody.get("/v1/jobs", headers=caller.headers).status_code == 401


def test_no_key_is_in_the_log(api: str, settings: Settings) -> None:
    caller = caller_of(settings, "read")
    secret = caller.key.rpartition("_")[2]
    sent = [
        f"Authorization: Bearer {caller.key}",
        f"Authorization: Bearer {caller.key}x",
        f"Authorization: {caller.key}",
        f"Authorization Bearer {caller.key}",
        f"Authorization : Bearer {caller.key}",
        f"Authorization: Bearer {caller.key}\x01",
    ]
    address = urlsplit(api)
    statuses = []
    for line in sent:
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            head = f"GET /v1/libraries HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{line}"
            connection.sendall(f"{head}\r\n\r\n".encode())
            with contextlib.closing(connection.makefile("rb")) as answer:
                statuses.append(int(answer.read().split()[1]))
    assert statuses[:3] == [200, 401, 401]
    assert statuses[3:] == [400, 400, 400]
    log = settings.data_dir / "api.log"
    wait_until(lambda: log.read_text().count("a request cannot be read") == 3, 30)
    assert secret not in log.read_text()
