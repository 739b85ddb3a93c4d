"""What is too much: refused at exactly its limit, and told when to come again."""

from __future__ import annotations

import io
import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.beats import beat
from support.records import image
from support.requests import assert_problem, client_of
from support.servers import set_rules
from support.uploading import END, parts, post_pieces

from twinlens.api import calls, events
from twinlens.api.accepting.limits import MAX_RETRY_AFTER_S
from twinlens.api.waiting import MAX_STREAMS, MAX_WAITERS
from twinlens.cli.service.http_worker import N_THREADS
from twinlens.shared.messages import Item
from twinlens.shared.redis import jobs
from twinlens.shared.redis.presence import announce
from twinlens.shared.settings import CALLER_TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


def upload(client: Client, content: bytes = b"x") -> Any:
    return client.post("/v1/images", data=content, content_type="image/png")


def search(client: Client) -> Any:
    return client.post("/v1/search", data={"file": (io.BytesIO(b"x"), "q.jpg")})


def work(redis: Redis, lane: Any, **rates: float) -> None:
    announce(redis, beat(f"{lane}@test:1", time.time() + 600, lanes=[lane], **rates))


@pytest.mark.parametrize(("post", "other"), [(upload, search), (search, upload)])
def test_a_queue_is_full_at_its_limit_and_another_is_not(
    settings: Settings, redis: Redis, post: Any, other: Any
) -> None:
    client = client_of(settings.model_copy(update={"max_queued_tasks": 3}))
    assert [post(client).status_code for _ in range(4)] == [202, 202, 202, 503]
    assert other(client).status_code == 202
    assert_problem(post(client), 503, "queue-full")


def test_what_a_full_queue_refuses(settings: Settings, redis: Redis, worker: StandIn) -> None:
    worker.serve("lite0", "phash")
    worker.add(image("a" * 64))
    client = client_of(settings.model_copy(update={"max_queued_tasks": 1}))
    for fill in (upload, search):
        assert fill(client).status_code == 202
    for refused in (
        client.delete(f"/v1/images/{'a' * 64}"),
        client.post("/v1/duplicates", json={}),
        client.post("/v1/compare", json={"image_ids": ["a" * 64] * 2}),
        client.get(f"/v1/images/{'a' * 64}/thumbnail"),
    ):
        assert_problem(refused, 503, "queue-full")


@pytest.mark.parametrize(
    ("post", "lane", "other"), [(upload, "bulk", "search"), (search, "search", "bulk")]
)
def test_who_is_sent_away_comes_back_by_the_rate_of_the_lane_that_would_serve_it(
    settings: Settings, redis: Redis, post: Any, lane: str, other: str
) -> None:
    client = client_of(settings.model_copy(update={"max_queued_tasks": 20}))
    for _ in range(20):
        post(client)
    work(redis, other, tasks_per_s=1000, pictures_per_s=1000)
    assert post(client).headers["Retry-After"] == str(MAX_RETRY_AFTER_S)
    # Two over nine tenths of the limit.
    for rate, seconds in ((0.5, "4"), (0.3, "7"), (100, "1"), (0.001, str(MAX_RETRY_AFTER_S))):
        work(redis, lane, tasks_per_s=rate, pictures_per_s=1000)
        assert post(client).headers["Retry-After"] == seconds


def test_the_backlog_is_full_at_its_limit(settings: Settings, redis: Redis) -> None:
    client = client_of(settings.model_copy(update={"max_backlog": 5}))
    answers = [post_pieces(client, [*parts(n), END]).status_code for n in (4, 1, 1)]
    assert answers == [202, 202, 503]
    work(redis, "bulk", pictures_per_s=0.1, tasks_per_s=1000)
    refused = post_pieces(client, [*parts(1), END])
    assert_problem(refused, 503, "queue-full")
    assert refused.headers["Retry-After"] == "5"


# The disk.


def leave_free(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    """Makes the disk one that has so much for others than root."""
    of_disk = SimpleNamespace(f_bavail=n_bytes // 2, f_bfree=10**18, f_frsize=2, f_bsize=10**6)
    monkeypatch.setattr(os, "statvfs", lambda _: of_disk)


@pytest.mark.parametrize("is_bulk", [False, True])
def test_an_upload_may_fill_the_disk_down_to_the_reserve_and_no_further(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch, is_bulk: bool
) -> None:
    client = client_of(settings.model_copy(update={"disk_reserve_bytes": 10_000}))
    path = "/v1/images/bulk" if is_bulk else "/v1/images"
    body = b"".join([*parts(2), END])
    body += b" " * (len(body) % 2)
    content_type = "multipart/form-data; boundary=b" if is_bulk else "image/png"

    def post(n_free: int) -> Any:
        leave_free(monkeypatch, n_free)
        return client.post(path, data=body, content_type=content_type)

    refused = post(10_000 + len(body) - 2)
    assert_problem(refused, 507, "storage-full")
    assert refused.headers["Retry-After"] == "5"
    assert client.get("/v1/jobs").json["items"] == []
    assert post(10_000 + len(body)).status_code == 202


def test_an_upload_of_unknown_length_ends_where_the_reserve_begins(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(settings.model_copy(update={"disk_reserve_bytes": 10_000}))
    leave_free(monkeypatch, 9_998)
    assert_problem(post_pieces(client, [*parts(2), END]), 507, "storage-full")
    leave_free(monkeypatch, 10_000)
    assert post_pieces(client, [*parts(2), END]).status_code == 202


def test_the_first_upload_of_all_makes_the_directory(
    settings: Settings, redis: Redis, tmp_path: Path
) -> None:
    client = client_of(settings.model_copy(update={"data_dir": tmp_path / "new"}))
    assert upload(client).status_code == 202
    client = client_of(settings.model_copy(update={"data_dir": tmp_path / "newer"}))
    assert post_pieces(client, [*parts(2), END]).status_code == 202


# Streams of events.


def test_those_who_wait_leave_threads_of_each_kind_to_others() -> None:
    # A stream has no body to come.
    assert 0 < MAX_WAITERS <= N_THREADS["body"] / 2
    assert 0 < MAX_STREAMS + MAX_WAITERS <= N_THREADS["plain"] * 2 / 3


def test_redis_blocks_for_less_than_its_clients_wait() -> None:
    timeout_s = CALLER_TIMEOUT_S
    for block_s in (events.BLOCK_S, jobs.WAIT_SLICE_S, calls._REPLY_SLICE_S):
        assert 0 < block_s < timeout_s - 1


def test_a_place_for_a_stream_is_free_again_however_the_stream_ends(
    client: Client, worker: StandIn
) -> None:
    ended = upload(client).json["id"]
    worker.finish_chunk(ended, 0, [Item(name="", image_id=None, outcome="skipped")])
    open_ = upload(client).json["id"]

    def follow(job_id: str) -> Any:
        return client.get(f"/v1/jobs/{job_id}/events", buffered=False)

    for _ in range(MAX_STREAMS + 1):
        told = follow(ended)
        assert "event: done" in told.text
        told.close()
        # Its client is gone, before and after it has read anything.
        for n_read in (0, 1):
            gone = follow(open_)
            pieces = gone.iter_encoded()
            for _ in range(n_read):
                next(pieces)
            gone.close()
    streams = [follow(open_) for _ in range(MAX_STREAMS)]
    assert [stream.status_code for stream in streams] == [200] * MAX_STREAMS
    refused = follow(open_)
    assert_problem(refused, 503, "queue-full")
    assert f"{MAX_STREAMS} streams" in refused.json["detail"]
    for stream in streams:
        stream.close()


def test_a_place_for_a_stream_is_free_again_after_an_error(client: Client, redis: Redis) -> None:
    job_id = upload(client).json["id"]
    for _ in range(MAX_STREAMS + 1):
        stream = client.get(f"/v1/jobs/{job_id}/events", buffered=False)
        pieces = stream.iter_encoded()
        next(pieces)
        set_rules(redis, "-xread")
        try:
            with pytest.raises(Exception, match="no permissions"):
                next(pieces)
        finally:
            set_rules(redis, "+@all")
            stream.close()
