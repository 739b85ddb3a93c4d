"""Redis that goes away in the middle of a request, or refuses one command: what is left then."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import pytest
from support.records import make_library
from support.requests import assert_problem, client_of
from support.servers import running_valkey, set_rules
from support.uploading import END, manifests_of, parts, post_pieces, the_job

from twinlens.shared.libraries import new_library
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import connect
from twinlens.shared.redis.feed import Feed
from twinlens.shared.redis.jobs import Jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


@pytest.fixture
def refuse(redis: Redis) -> Iterator[Callable[..., None]]:
    """Returns what makes Redis refuse some commands, for all of its clients."""

    def change(*commands: str) -> None:
        set_rules(redis, "+@all", *[f"-{command}" for command in commands])

    yield change
    change()


SCRIPTS = ("eval", "evalsha", "script")


def raw(content: bytes = b"x") -> dict[str, Any]:
    headers = {"Idempotency-Key": "k"}
    return {"data": content, "content_type": "image/png", "headers": headers}


def test_an_upload_during_which_redis_is_stopped_is_kept_for_the_sweeper(
    settings: Settings, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as server:
        url = server.enter_context(running_valkey(tmp_path))
        with connect(url) as redis:
            make_library(redis, new_library("default", ["lite0@1"]))
        client = client_of(settings.model_copy(update={"redis_url": url}))
        answer = post_pieces(client, [*parts(6), server.close, *parts(9), END], key="k")
        assert_problem(answer, 503, "unavailable")
    assert len(manifests_of(settings)) >= 1
    with running_valkey(tmp_path) as url, connect(url) as redis:
        client = client_of(settings.model_copy(update={"redis_url": url}))
        job = the_job(client)
        assert (job["status"], job["progress"]["received"]) == ("queued", 4)
        assert redis.smembers("tl:jobs:arriving") == {job["id"]}


def test_a_command_that_fails_in_the_middle_keeps_the_record_and_what_arrived(
    client: Client, settings: Settings, redis: Redis, refuse: Callable[..., None]
) -> None:
    def fail() -> None:
        refuse(*SCRIPTS)

    answer = post_pieces(client, [*parts(6), fail, *parts(9), END], key="k")
    assert_problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "5"
    refuse()
    job = the_job(client)
    assert (job["status"], job["progress"]["received"]) == ("queued", 4)
    assert manifests_of(settings)[0].parent.name == job["id"]
    # Whoever posts it again is told that it still arrives, and makes no second job.
    assert len(redis.keys("tl:idempotency:*")) == 1
    assert job["progress"]["total"] is None
    assert redis.exists(keys.arrival(job["id"]))
    # Once its sign is silent, the sweeper has it.
    redis.expire(keys.arrival(job["id"]), 0)
    assert Feed(redis).lost_arrivals() == [job["id"]]


def test_a_picture_that_cannot_be_queued_leaves_nothing_and_frees_its_key(
    client: Client, settings: Settings, redis: Redis, refuse: Callable[..., None]
) -> None:
    refuse("lpush")
    answer = client.post("/v1/images", **raw())
    assert_problem(answer, 503, "unavailable")
    refuse()
    assert redis.keys("tl:idempotency:*") == []
    assert client.get("/v1/jobs").json["items"] == []
    assert not redis.exists(keys.TASKS)
    assert manifests_of(settings) == []
    assert client.post("/v1/images", **raw()).status_code == 202


def test_a_search_that_cannot_be_queued_leaves_nothing(
    client: Client, redis: Redis, refuse: Callable[..., None]
) -> None:
    refuse("lpush")
    data = {"file": (io.BytesIO(b"x"), "q.jpg")}
    answer = client.post("/v1/search", data=data, headers={"Idempotency-Key": "k"})
    assert_problem(answer, 503, "unavailable")
    refuse()
    assert redis.keys("tl:*") == ["tl:libraries"]


def test_the_key_of_an_earlier_job_outlives_a_repeat_that_cannot_be_queued(
    client: Client, redis: Redis, refuse: Callable[..., None]
) -> None:
    first = client.post("/v1/images", **raw()).json["id"]
    refuse("lpush")
    assert client.post("/v1/images", **raw()).json["id"] == first
    assert_problem(client.post("/v1/images", **raw(b"other")), 422, "idempotency-conflict")
    refuse()
    assert client.post("/v1/images", **raw()).json["id"] == first


def test_a_picture_whose_record_may_have_stayed_keeps_its_manifest(
    client: Client, settings: Settings, redis: Redis, refuse: Callable[..., None]
) -> None:
    """Neither can it be queued, nor its record be taken back: the sweeper queues it."""
    refuse("lpush", "del")
    assert_problem(client.post("/v1/images", **raw()), 503, "unavailable")
    refuse()
    job = the_job(client)
    assert Jobs(redis).open_tasks("single", 0) == [job["id"]]
    assert [path.parent.name for path in manifests_of(settings)] == [job["id"]]


def test_a_chunk_that_cannot_be_queued_stays_with_its_job(
    client: Client, settings: Settings, worker: StandIn, refuse: Callable[..., None]
) -> None:
    refuse("lpush")
    assert_problem(post_pieces(client, [*parts(6), END], key="k"), 503, "unavailable")
    refuse()
    job = the_job(client)
    assert (job["progress"]["received"], job["progress"]["total"]) == (4, None)
    assert len(worker.redis.keys("tl:idempotency:*")) == 1
    assert [path.parent.name for path in manifests_of(settings)] == [job["id"]]
    assert Feed(worker.redis).fed_chunks(-1) == [(job["id"], 0)]
