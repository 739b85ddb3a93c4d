"""How often a caller may ask."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from support.requests import assert_problem, client_of

if TYPE_CHECKING:
    from support.requests import Client

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


def test_a_caller_is_told_what_is_left_and_refused_past_it(
    settings: Settings, redis: Redis
) -> None:
    client = client_of(settings.model_copy(update={"requests_per_minute": 3}))
    left = []
    for _ in range(3):
        answer = client.get("/v1/libraries")
        assert answer.status_code == 200
        assert answer.headers["RateLimit-Policy"] == '"requests";q=3;w=60'
        match = re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
        assert match is not None
        left.append(int(match[1]))
        assert 1 <= int(match[2]) <= 60
    assert left == [2, 1, 0]
    refused = client.get("/v1/libraries")
    assert_problem(refused, 429, "rate-limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["RateLimit"] == f'"requests";r=0;t={refused.headers["Retry-After"]}'


def test_callers_do_not_count_for_each_other_nor_do_probes(
    settings: Settings, redis: Redis
) -> None:
    client = client_of(settings.model_copy(update={"requests_per_minute": 1}))
    for address in ("127.0.0.1", "127.0.0.2"):
        origin = {"REMOTE_ADDR": address}
        assert client.get("/v1/libraries", environ_overrides=origin).status_code == 200
    assert client.get("/v1/libraries").status_code == 429
    assert client.get("/livez").status_code == 200


def test_without_a_limit_nothing_is_told(client: Client) -> None:
    answer = client.get("/v1/libraries")
    assert "RateLimit" not in answer.headers
