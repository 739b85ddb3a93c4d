"""Short tasks whose answer a request waits for: what is asked, and what if nobody answers."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.beats import beat
from support.records import image
from support.requests import assert_problem, client_of
from support.stand_in import read_task
from support.uploading import END, parts, post_pieces

from twinlens.api import calls
from twinlens.api.routes import images as image_routes
from twinlens.api.routes import search as search_routes
from twinlens.api.routes import stats as stats_routes
from twinlens.shared.blobs import BlobStore, image_key, thumbnail_key
from twinlens.shared.errors import BrokenPicture
from twinlens.shared.queue import COMPARE, Reply
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import connect, connect_raw
from twinlens.shared.redis.presence import announce

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings

ID = "a" * 64


@contextlib.contextmanager
def answering(settings: Settings, *replies: Reply) -> Iterator[list[dict[str, Any]]]:
    """Answers calls in their order, and gives what they asked, with the pictures sent."""
    asked: list[dict[str, Any]] = []

    def work() -> None:
        with connect(settings.redis_url) as redis, connect_raw(settings.redis_url) as raw:
            for reply in replies:
                while (message := redis.brpop(["search"], timeout=1)) is None:
                    if is_over.is_set():
                        return
                task = read_task(message[1])
                names = [keys.query_picture(task["id"], number) for number in range(3)]
                lives = [redis.ttl(name) for name in names]
                asked.append(task | {"pictures": raw.mget(names), "lives": lives})
                redis.rpush(keys.reply(task["id"]), reply.model_dump_json())

    is_over = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield asked
    finally:
        is_over.set()
        thread.join()


def pictures(*contents: bytes) -> dict[str, Any]:
    return {"data": {"file": [(io.BytesIO(content), "x.jpg") for content in contents]}}


COMPARED = {"score": 0.9, "models": {"lite0": {"distance": 0.5, "score": 0.9}}}


def test_two_pictures_are_compared(client: Client, worker: StandIn, settings: Settings) -> None:
    worker.serve("lite0")
    worker.announce("search")
    with answering(settings, Reply(value=COMPARED)) as asked:
        answer = client.post("/v1/compare", **pictures(b"one", b"two"))
    assert answer.status_code == 200, answer.text
    assert answer.json == COMPARED
    [task] = asked
    assert task["name"] == COMPARE
    assert task["kwargs"]["query"]["image_ids"] == []
    assert task["pictures"] == [b"one", b"two", None]
    # No longer than anyone waits for the answer.
    assert all(0 < life <= search_routes.COMPARE_TIMEOUT_S for life in task["lives"][:2])
    assert task["expires"] is not None
    assert client.get("/v1/jobs").json["items"] == []


def test_a_comparison_that_fails_is_told(
    client: Client, worker: StandIn, settings: Settings
) -> None:
    worker.serve("lite0")
    worker.announce("search")
    reply = Reply(error=BrokenPicture("It is broken.").to_problem())
    with answering(settings, reply):
        answer = client.post("/v1/compare", **pictures(b"one", b"two"))
    assert_problem(answer, 422, "broken-picture")


def test_a_worker_of_another_lane_does_not_answer(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    worker.announce("bulk")
    answer = client.post("/v1/compare", **pictures(b"one", b"two"))
    problem = assert_problem(answer, 503, "unavailable")
    assert problem["detail"] == "No search worker is running."
    assert worker.queued() == []


def test_who_waits_in_vain_is_told_when_the_time_is_up(
    client: Client, worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_routes, "COMPARE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(calls, "_REPLY_SLICE_S", 60.0)  # which the time that is left cuts
    worker.serve("lite0")
    worker.announce("search")
    answer = client.post("/v1/compare", **pictures(b"one", b"two"))
    problem = assert_problem(answer, 503, "unavailable")
    assert problem["detail"] == "No worker answered in time."
    [task] = worker.queued()
    # A worker that comes to it later leaves it: nobody reads the answer any more.
    assert task["expires"] is not None


def test_an_answer_may_take_longer_than_redis_blocks_at_once(
    client: Client, worker: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_REPLY_SLICE_S", 0.001)
    worker.serve("lite0")
    worker.announce("search")
    with answering(settings, Reply(value=COMPARED)):
        assert client.post("/v1/compare", **pictures(b"one", b"two")).status_code == 200


def test_nobody_waits_longer_than_a_minute() -> None:
    for timeout_s in (
        image_routes.THUMBNAIL_TIMEOUT_S,
        search_routes.COMPARE_TIMEOUT_S,
        stats_routes.COUNT_TIMEOUT_S,
    ):
        assert 1 <= timeout_s <= 60


# What is sent of stored pictures.


@pytest.mark.parametrize(("what", "tag"), [("content", ID), ("thumbnail", f"{ID}-thumbnail")])
@pytest.mark.parametrize("name", ["cat.jpg", "", "sub/folder/cat.jpg", "\x00\n"])
def test_stored_bytes_are_never_a_page_and_are_kept_by_their_client(
    client: Client, worker: StandIn, settings: Settings, what: str, tag: str, name: str
) -> None:
    blobs = BlobStore(settings.blob_dir)
    blobs.put(image_key("default", ID), b"<html>")
    blobs.put(thumbnail_key("default", ID), b"<html>")
    worker.add(image(ID, name))
    path = f"/v1/images/{ID}/{what}"
    sent = client.get(path)
    assert (sent.status_code, sent.data) == (200, b"<html>")
    assert sent.content_type == "image/jpeg"
    assert sent.headers["Content-Length"] == "6"
    assert sent.headers["ETag"] == f'"{tag}"'
    assert sent.headers["Accept-Ranges"] == "bytes"
    assert sent.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert sent.headers["X-Content-Type-Options"] == "nosniff"
    assert (
        sent.headers["Content-Security-Policy"]
        == "default-src 'none'; sandbox; frame-ancestors 'none'"
    )
    disposition = sent.headers["Content-Disposition"]
    assert disposition.startswith("inline; filename=")
    assert "/" not in disposition
    nameless = "image" if what == "content" else ".jpg"
    assert ("cat.jpg" if "cat" in name else f"filename={nameless}") in disposition
    same = client.get(path, headers={"If-None-Match": f'"{tag}"'})
    assert (same.status_code, same.data) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"x"'}).status_code == 200


# Counts.


def work(redis: Redis, lane: Any, *, n_pictures: int, busy_s: float) -> None:
    done = {"n_pictures": n_pictures, "pictures_per_s": 0.25, "tasks_per_s": 1, "busy_s": busy_s}
    announce(redis, beat(f"{lane}@test:{n_pictures}", time.time() + 600, lanes=[lane], **done))


def test_the_backlog_tells_how_many_processes_would_empty_it_in_an_hour(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_routes, "COUNT_TIMEOUT_S", 0.01)
    post_pieces(client, [*parts(6), END])
    # A picture in an hour and in a half: two processes, of three pictures in an hour together.
    work(redis, "bulk", n_pictures=1, busy_s=3600)
    work(redis, "bulk", n_pictures=2, busy_s=3600)
    work(redis, "search", n_pictures=1000, busy_s=1)
    backlog = client.get("/v1/stats").json["backlog"]
    assert backlog["pictures"] == 6
    assert backlog["pictures_per_s"] == 0.5
    assert backlog["processes_for_an_hour"] == 4
    assert backlog["process_pictures_per_s"] == 0.0


@pytest.mark.parametrize(("n_pictures", "busy_s"), [(0, 5.0), (5, 0.0)])
def test_nothing_is_foretold_before_the_first_chunk_is_done(
    client: Client, redis: Redis, n_pictures: int, busy_s: float
) -> None:
    post_pieces(client, [*parts(6), END])
    work(redis, "bulk", n_pictures=n_pictures, busy_s=busy_s)
    backlog = client.get("/v1/stats").json["backlog"]
    assert (backlog["process_pictures_per_s"], backlog["processes_for_an_hour"]) == (None, None)


def test_vectors_are_counted_in_each_library_until_nobody_answers(
    client: Client, worker: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("art", "birds", "default"):
        worker.serve("lite0", library=name)
    worker.announce("search")
    bad = Reply(error=BrokenPicture("It is broken.").to_problem())
    with answering(settings, Reply(value={"lite0": 1}), bad, Reply(value={"lite0": 3})) as asked:
        libraries = client.get("/v1/stats").json["libraries"]
    assert [task["kwargs"] for task in asked] == [
        {"library": name} for name in ("art", "birds", "default")
    ]
    assert {name: one["vectors"] for name, one in libraries.items()} == {
        "art": {"lite0": 1},
        "birds": None,
        "default": {"lite0": 3},
    }
    monkeypatch.setattr(stats_routes, "COUNT_TIMEOUT_S", 0.01)
    libraries = client.get("/v1/stats").json["libraries"]
    assert [one["vectors"] for one in libraries.values()] == [None] * 3
    assert len(worker.queued()) == 1


def test_a_search_s_picture_waits_no_longer_than_anyone_would(
    settings: Settings, worker: StandIn
) -> None:
    worker.serve("lite0")
    client = client_of(settings)
    job_id = client.post("/v1/search", **pictures(b"one", b"two")).json["id"]
    for number in range(2):
        assert 500 < worker.redis.ttl(keys.query_picture(job_id, number)) <= 600
