"""Idempotency keys: how long they are held, when they are free again, and whose they stay."""

from __future__ import annotations

import io
import json
import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from redis import RedisError
from support.requests import assert_problem
from support.servers import set_rules, wait_until
from support.uploading import BREAK, END, part, parts, post_pieces, the_job
from support.uploading import manifests_of as manifests

from twinlens.api.accepting import arrival
from twinlens.api.accepting.idempotency import KEY_TTL_S
from twinlens.shared.errors import UploadBroken
from twinlens.shared.redis import keys
from twinlens.shared.redis.feed import Feed
from twinlens.shared.redis.jobs import SEARCH_TTL_S
from twinlens.shared.redis.scripts import ARRIVAL_TTL_S

if TYPE_CHECKING:
    from support.requests import Client, Piece
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


def life_of_key(redis: Redis) -> int:
    [name] = redis.keys("tl:idempotency:*")
    return int(redis.ttl(name))


def test_a_sign_of_life_is_given_several_times_before_it_would_be_missed() -> None:
    assert 0 < arrival.RENEW_S < ARRIVAL_TTL_S / 3


def test_a_key_lives_for_a_day_and_while_its_upload_arrives_only_as_long_as_one_is_missed(
    client: Client, redis: Redis
) -> None:
    """The retry of an upload that died with its API process is not refused for a day."""
    assert KEY_TTL_S == 86_400
    during: list[int] = []
    pieces: list[Piece] = [*parts(6), lambda: during.append(life_of_key(redis)), END]
    assert post_pieces(client, pieces, key="k").status_code == 202
    assert 0 < during[0] <= ARRIVAL_TTL_S
    assert KEY_TTL_S - 600 < life_of_key(redis) <= KEY_TTL_S


@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/bulk", "/v1/search"])
def test_the_key_of_a_request_that_came_whole_lives_for_a_day(
    client: Client, redis: Redis, path: str
) -> None:
    name = "files" if path.endswith("bulk") else "file"
    data = {name: (io.BytesIO(b"x"), "x.jpg")}
    assert client.post(path, data=data, headers={"Idempotency-Key": "k"}).status_code == 202
    assert KEY_TTL_S - 600 < life_of_key(redis) <= KEY_TTL_S


@pytest.mark.parametrize("key", ["k", None], ids=["with a key", "without"])
def test_an_upload_that_is_held_up_tells_that_it_arrives(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """By a slow client, or a slow disk: nothing of it comes meanwhile."""
    monkeypatch.setattr(arrival, "RENEW_S", 0.01)

    def stand_still() -> None:
        names = [*redis.keys("tl:idempotency:*"), keys.arrival(the_job(client)["id"])]
        assert len(names) == (2 if key else 1)
        for name in names:
            assert redis.expire(name, 5)
        wait_until(lambda: all(redis.ttl(name) > 5 for name in names), 60)
        assert all(redis.ttl(name) <= ARRIVAL_TTL_S for name in names)

    assert post_pieces(client, [*parts(6), stand_still, END], key=key).status_code == 202
    assert key is None or life_of_key(redis) > KEY_TTL_S - 600


def test_a_sign_of_life_that_redis_does_not_take_is_given_again(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "RENEW_S", 0.01)

    def stand_still() -> None:
        name = keys.arrival(the_job(client)["id"])
        set_rules(redis, "-set")
        redis.expire(name, 5)
        redis.acl_log_reset()
        wait_until(lambda: bool(redis.acl_log()), 60)
        set_rules(redis, "+@all")
        wait_until(lambda: redis.ttl(name) > 5, 60)

    assert post_pieces(client, [*parts(6), stand_still, END]).status_code == 202


def test_a_slow_repeat_does_not_shorten_the_life_of_the_key(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "RENEW_S", 0.0)
    for _ in range(2):
        assert post_pieces(client, [*parts(9), END], key="k").status_code == 202
    assert life_of_key(redis) > KEY_TTL_S - 600


def test_an_upload_whose_end_was_not_recorded_does_not_stand_for_its_key(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its repetition was answered with a job that then ended as broken, though it was whole."""
    really_seal = Feed.seal

    def fail(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(Feed, "seal", really_seal)
        raise RedisError("Redis is away")

    monkeypatch.setattr(Feed, "seal", fail)
    pieces = [*parts(6), END]
    assert_problem(post_pieces(client, pieces, key="k"), 503, "unavailable")
    assert_problem(post_pieces(client, pieces, key="k"), 409, "upload-in-progress")
    [name] = redis.keys("tl:idempotency:*")
    redis.delete(name)  # its time is over
    again = post_pieces(client, pieces, key="k")
    assert (again.status_code, again.json["progress"]["total"]) == (202, 6)


# What a key stands for.


@pytest.mark.parametrize("n_pictures", [1, 4, 6, 9])
def test_a_repeated_upload_leaves_one_job_and_its_manifest(
    client: Client, settings: Settings, worker: StandIn, n_pictures: int
) -> None:
    pieces = [*parts(n_pictures), END]
    first = post_pieces(client, pieces, key="k").json
    kept = manifests(settings)
    queued = worker.queued()
    again = post_pieces(client, pieces, key="k")
    assert (again.status_code, again.json["id"]) == (202, first["id"])
    assert manifests(settings) == kept
    assert the_job(client)["progress"]["received"] == n_pictures
    assert worker.queued() == queued
    assert Feed(worker.redis).lost_arrivals() == []


@pytest.mark.parametrize("n_pictures", [2, 6])
def test_another_upload_under_the_key_leaves_no_manifest(
    client: Client, settings: Settings, n_pictures: int
) -> None:
    post_pieces(client, [*parts(1), END], key="k")
    kept = manifests(settings)
    other = post_pieces(client, [*parts(n_pictures), END], key="k")
    assert_problem(other, 422, "idempotency-conflict")
    assert manifests(settings) == kept
    # Once the key is known to be another upload's, the rest is read only to compare.
    stored = [path for path in (settings.blob_dir / "images").rglob("*") if path.is_file()]
    assert len(stored) == min(n_pictures, 4)


def test_a_repeat_while_the_first_arrives_leaves_no_manifest(
    client: Client, settings: Settings
) -> None:
    statuses: list[Any] = []

    def repeat() -> None:
        kept = manifests(settings)
        broken: list[Piece] = [*parts(2), part("x", b"x"), BREAK]
        for pieces in ([*parts(6), END], [*parts(2), END], broken):
            statuses.append(post_pieces(client, pieces, key="k").status_code)
            assert manifests(settings) == kept

    first = post_pieces(client, [*parts(6), repeat, END], key="k")
    assert statuses == [409, 409, 400]
    assert the_job(client)["id"] == first.json["id"]


def named(name: str, content: bytes = b"x", **metadata: Any) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n'
    return head + json.dumps(metadata).encode() + b"\r\n" + part(name, content)


@pytest.mark.parametrize(
    "pieces",
    [
        [named("c"), named("b")],
        [named("a", b"y"), named("b")],
        [named("a", year=2020), named("b")],
        [named("b"), named("a")],
        [named("a")],
        [named("a"), named("b"), named("c")],
    ],
)
def test_a_key_stands_for_pictures_names_metadata_and_their_order(
    client: Client, pieces: list[bytes]
) -> None:
    assert post_pieces(client, [named("a"), named("b"), END], key="k").status_code == 202
    other = post_pieces(client, [*pieces, END], key="k")
    assert_problem(other, 422, "idempotency-conflict")


def test_a_key_stands_for_one_library(client: Client, worker: StandIn) -> None:
    worker.serve("lite0", library="art")
    raw: dict[str, Any] = {"data": b"x", "content_type": "image/png"}
    headers = {"Idempotency-Key": "k"}
    assert client.post("/v1/images", headers=headers, **raw).status_code == 202
    other = client.post("/v1/images?library=art", headers=headers, **raw)
    assert_problem(other, 422, "idempotency-conflict")
    assert post_pieces(client, [*parts(2), END], key="k").status_code == 202
    other = post_pieces(client, [*parts(2), END], key="k", library="art")
    assert_problem(other, 422, "idempotency-conflict")


def test_an_example_and_a_counterexample_are_another_query_the_other_way_round(
    client: Client, worker: StandIn
) -> None:
    def search(positive: bytes, negative: bytes) -> Any:
        data = {"file": (io.BytesIO(positive), "p"), "negative": (io.BytesIO(negative), "n")}
        return client.post("/v1/search", data=data, headers={"Idempotency-Key": "k"})

    first = search(b"cat", b"dog")
    assert search(b"cat", b"dog").json["id"] == first.json["id"]
    assert_problem(search(b"dog", b"cat"), 422, "idempotency-conflict")


# When a key is free again, and when not.


def bad_end() -> list[bytes]:
    return [b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n', END]


@pytest.mark.parametrize("n_pictures", [2, 4, 6])
@pytest.mark.parametrize("end", [[BREAK], [OSError("gone")], bad_end()])
def test_a_key_is_free_again_after_an_upload_that_failed(
    client: Client, redis: Redis, n_pictures: int, end: list[bytes | Exception]
) -> None:
    failed = post_pieces(client, [*parts(n_pictures), part("x", b"x"), *end], key="k")
    assert failed.status_code in {400, 422}
    assert redis.keys("tl:idempotency:*") == []
    assert post_pieces(client, [*parts(6), END], key="k").status_code == 202


@pytest.mark.parametrize("end", [[*parts(9), END], [BREAK]])
def test_a_key_is_free_again_after_its_upload_was_given_up(
    client: Client, settings: Settings, redis: Redis, end: list[bytes | Exception]
) -> None:
    def give_up() -> None:
        Feed(redis).seal(the_job(client)["id"], UploadBroken("Lost.").to_problem())

    failed = post_pieces(client, [*parts(6), give_up, *end], key="k")
    assert_problem(failed, 400, "upload-broken")
    assert redis.keys("tl:idempotency:*") == []
    # The chunk that is not taken any more is not stored a second time.
    assert [path.name for path in manifests(settings)] == ["000000.jsonl", "000001.jsonl"]


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [([*parts(9), END], 507, "storage-full"), ([BREAK], 400, "upload-broken")],
)
def test_a_key_is_free_again_and_the_job_ends_after_the_disk_is_full(
    client: Client,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    end: list[bytes | Exception],
    status: int,
    code: str,
) -> None:
    def fill() -> None:
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=1))

    problem = assert_problem(post_pieces(client, [*parts(6), fill, *end], key="k"), status, code)
    assert f"The first 4 pictures are kept in job {the_job(client)['id']}" in problem["detail"]
    assert the_job(client)["progress"]["total"] == 4
    assert redis.keys("tl:idempotency:*") == []


@pytest.mark.parametrize("n_before_break", [1, 4, 6])
@pytest.mark.parametrize("end", [[BREAK], bad_end()])
def test_a_repeat_that_breaks_off_leaves_the_key_to_the_first_job(
    client: Client,
    settings: Settings,
    worker: StandIn,
    n_before_break: int,
    end: list[bytes | Exception],
) -> None:
    first = post_pieces(client, [*parts(9), END], key="k").json
    kept = manifests(settings)
    broken = post_pieces(client, [*parts(n_before_break), part("x", b"x"), *end], key="k")
    assert broken.status_code in {400, 422}
    assert "in job" not in broken.json["detail"]
    assert the_job(client)["id"] == first["id"]
    assert the_job(client)["progress"]["received"] == 9
    assert manifests(settings) == kept
    again = post_pieces(client, [*parts(9), END], key="k")
    assert (again.status_code, again.json["id"]) == (202, first["id"])


def test_a_search_is_done_again_once_its_result_has_expired(
    client: Client, worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search() -> Any:
        data = {"file": (io.BytesIO(b"cat"), "cat.png")}
        answer = client.post("/v1/search", data=data, headers={"Idempotency-Key": "k"})
        assert answer.status_code in {200, 202}, answer.text
        return answer.json["id"]

    first = search()
    assert search() == first, "it waits"
    worker.jobs.finish(first)
    assert search() == first, "its result is there"
    later = time.time() + SEARCH_TTL_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    second = search()
    assert second != first
    assert search() == second
    assert [task["id"] for task in worker.queued()] == [first, second]
