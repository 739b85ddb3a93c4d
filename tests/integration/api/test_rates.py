"""How often a caller may ask."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support.callers import caller_of
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


def test_a_key_is_counted_wherever_it_is_used_and_not_the_address(
    settings: Settings, redis: Redis
) -> None:
    settings = settings.model_copy(update={"requests_per_minute": 2})
    one, other = (caller_of(settings, "read") for _ in range(2))
    for address in ("127.0.0.1", "127.0.0.2"):
        origin = {"REMOTE_ADDR": address}
        assert one.client.get("/v1/libraries", environ_overrides=origin).status_code == 200
    refused = one.client.get("/v1/libraries", environ_overrides={"REMOTE_ADDR": "127.0.0.3"})
    assert_problem(refused, 429, "rate-limited")
    assert other.client.get("/v1/libraries").status_code == 200


def test_who_tries_keys_is_counted_by_address(settings: Settings, redis: Redis) -> None:
    settings = settings.model_copy(update={"requests_per_minute": 3})
    good = caller_of(settings, "read")
    client = client_of(settings)
    tried = [
        client.get("/v1/libraries", headers={"Authorization": f"Bearer {good.key[:-1]}{digit}"})
        for digit in "wxyz"
    ]
    assert [answer.status_code for answer in tried] == [401, 401, 401, 429]
    assert good.client.get("/v1/libraries").status_code == 200


@pytest.mark.parametrize("of_service", [0, 1, 5])
def test_a_keys_own_limit_holds_instead_of_the_services(
    settings: Settings, redis: Redis, of_service: int
) -> None:
    settings = settings.model_copy(update={"requests_per_minute": of_service})
    own, free = (caller_of(settings, "read", requests_per_minute=n) for n in (2, 0))
    answers = [own.client.get("/v1/libraries") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"requests";q=2;w=60'
    answers = [free.client.get("/v1/libraries") for _ in range(7)]
    assert {answer.status_code for answer in answers} == {200}
    assert "RateLimit" not in answers[0].headers


def test_without_a_limit_nothing_is_told(client: Client) -> None:
    answer = client.get("/v1/libraries")
    assert "RateLimit" not in answer.headers
