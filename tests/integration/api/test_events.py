"""A job's events: in order, as they happen, and resumed anywhere without loss."""

from __future__ import annotations

import itertools
import json
import threading
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.requests import assert_problem, form_body

from twinlens.api import events as event_stream
from twinlens.api.waiting import MAX_STREAMS
from twinlens.shared.errors import BrokenPicture
from twinlens.shared.messages import Item
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.requests import Client
    from support.stand_in import StandIn


BROKEN = BrokenPicture("It is broken.").to_problem()


class Told(NamedTuple):
    id: str
    event: str
    data: Any


def read(text: str) -> list[Told]:
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            events.append(Told(fields["id"], fields["event"], json.loads(fields["data"])))
    return events


def follow(client: Client, job_id: str, last: str | None = None) -> list[Told]:
    """Reads a job's events until the stream ends."""
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    return read(answer.text)


def post(client: Client, n_pictures: int) -> str:
    parts = [("files", (f"p{n}", b"%d" % n)) for n in range(n_pictures)]
    job_id: str = client.post("/v1/images/bulk", **form_body(parts)).json["id"]
    return job_id


def finish(worker: StandIn, job_id: str, n_pictures: int) -> None:
    """Ends every chunk; each third picture has failed."""
    for chunk, first in enumerate(range(0, n_pictures, 4)):
        numbers = range(first, min(first + 4, n_pictures))
        items = [
            Item(name=f"p{n}", image_id=None, outcome="succeeded")
            if n % 3
            else Item(name=f"p{n}", image_id=None, outcome="failed", error=BROKEN)
            for n in numbers
        ]
        worker.finish_chunk(job_id, chunk, items)


def failures(events: list[Told]) -> list[str]:
    return [one.data["name"] for one in events if one.event == "item_failed"]


def test_what_happened_is_told_to_who_comes_late(client: Client, worker: StandIn) -> None:
    job_id = post(client, 10)
    finish(worker, job_id, 10)
    events = follow(client, job_id)
    assert failures(events) == ["p0", "p3", "p6", "p9"]
    assert events[0].data["error"]["type"] == "urn:twinlens:problem:broken-picture"
    assert [one.event for one in events if one.event != "item_failed"] == ["done"]
    assert events[-1].data == client.get(f"/v1/jobs/{job_id}").json


def test_a_stream_can_be_resumed_after_any_event(client: Client, worker: StandIn) -> None:
    job_id = post(client, 10)
    finish(worker, job_id, 10)
    events = follow(client, job_id)
    assert len({one.id for one in events}) == len(events)
    for n_seen in range(1, len(events)):
        rest = follow(client, job_id, events[n_seen - 1].id)
        assert failures(rest) == failures(events[n_seen:])
        assert rest[-1] == events[-1]
    path = f"/v1/jobs/{job_id}/events"
    answer = client.get(path, headers={"Last-Event-ID": events[-1].id})
    assert (answer.status_code, answer.text) == (204, "")


def test_events_come_as_they_happen_and_progress_never_goes_back(
    client: Client, worker: StandIn
) -> None:
    job_id = post(client, 40)
    worker.finish_chunk(job_id, 0, [Item(name="p", image_id=None, outcome="succeeded")] * 4)
    response = client.get(f"/v1/jobs/{job_id}/events", buffered=False)
    told = response.iter_encoded()
    first = read("".join(next(told).decode() for _ in range(2)))
    assert [(one.event, one.data["succeeded"]) for one in first] == [("progress", 4)]
    assert first[0].data["pictures_per_s"] > 0
    assert first[0].data["eta"] is not None

    def work() -> None:
        for chunk in range(1, 10):
            time.sleep(0.02)
            items = [Item(name="p", image_id=None, outcome="skipped")] * 4
            worker.finish_chunk(job_id, chunk, items)

    thread = threading.Thread(target=work)
    thread.start()
    rest = read("".join(piece.decode() for piece in told))
    thread.join()
    response.close()
    counts = [one.data["skipped"] for one in rest if one.event == "progress"]
    assert counts == sorted(counts)
    assert len(counts) > 1
    assert (rest[-1].event, rest[-1].data["status"]) == ("done", "succeeded")
    assert rest[-1].data["progress"]["eta"] is None


@pytest.mark.parametrize("last", ["x", "1", "1-", "1-1.", "-1-1", "1-1.x", "1" * 30 + "-1"])
def test_an_id_that_was_never_given_is_refused(client: Client, last: str) -> None:
    job_id = post(client, 1)
    answer = client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last})
    problem = assert_problem(answer, 422, "validation-failed")
    assert problem["errors"][0]["location"] == "header:Last-Event-ID"


def test_events_of_no_job_are_not_found(client: Client) -> None:
    assert_problem(client.get("/v1/jobs/none/events"), 404, "job-not-found")


def test_streams_leave_threads_for_others(client: Client, worker: StandIn) -> None:
    job_id = post(client, 1)
    path = f"/v1/jobs/{job_id}/events"
    streams = [client.get(path, buffered=False) for _ in range(MAX_STREAMS)]
    assert_problem(client.get(path), 503, "queue-full")
    for stream in streams:
        stream.close()
    finish(worker, job_id, 1)
    assert follow(client, job_id)[-1].event == "done"


def single(client: Client) -> str:
    """Returns a job of which nothing has happened yet."""
    job_id: str = client.post("/v1/images", data=b"x", content_type="image/png").json["id"]
    return job_id


def pieces_of(client: Client, job_id: str, last: str | None = None) -> Iterator[str]:
    """Gives what the stream sends, as it is sent; no more than a test could want."""
    headers = {} if last is None else {"Last-Event-ID": last}
    response = client.get(f"/v1/jobs/{job_id}/events", headers=headers, buffered=False)
    with response:
        for piece in itertools.islice(response.iter_encoded(), 100):
            yield piece.decode()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "BLOCK_S", 0.01)
    monkeypatch.setattr(event_stream, "COMMENT_S", 0.02)


def test_a_stream_says_when_to_come_again_and_that_nothing_may_hold_it_back(
    client: Client, worker: StandIn
) -> None:
    job_id = post(client, 1)
    finish(worker, job_id, 1)
    answer = client.get(f"/v1/jobs/{job_id}/events")
    assert answer.text.startswith("retry: 2000\n\n")
    assert answer.headers["X-Accel-Buffering"] == "no"


def test_a_silent_stream_is_looked_after_often_and_kept_alive_by_comments() -> None:
    # Proxies close a connection after 60 s of silence, some after 30.
    assert 0 < event_stream.BLOCK_S < event_stream.COMMENT_S < 25


def test_a_stream_of_which_nothing_happens_sends_a_comment_now_and_then(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(event_stream, "BLOCK_S", 0.001)
    monkeypatch.setattr(event_stream, "COMMENT_S", 10)
    # A clock that goes on by a second each time that the stream looks at it.
    monkeypatch.setattr(event_stream, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    told = pieces_of(client, single(client))
    assert next(told).startswith("retry: ")
    looks = []
    for _ in range(3):
        assert next(told) == ": still here\n\n"
        looks.append(next(clock))
    assert [later - earlier > 10 for earlier, later in pairwise(looks)] == [True, True]


def test_a_stream_is_silent_before_a_comment_is_due(
    client: Client, worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "BLOCK_S", 0.01)
    monkeypatch.setattr(event_stream, "COMMENT_S", 600.0)
    job_id = single(client)
    told = pieces_of(client, job_id)
    next(told)
    item = Item(name="p", image_id=None, outcome="skipped")
    thread = threading.Timer(0.1, worker.finish_chunk, (job_id, 0, [item]))
    thread.start()
    rest = list(told)
    thread.join()
    assert [one for one in rest if one.startswith(":")] == []


@pytest.mark.usefixtures("impatient")
def test_a_stream_ends_though_its_last_event_was_lost_with_redis(
    client: Client, worker: StandIn
) -> None:
    job_id = single(client)
    told = pieces_of(client, job_id)
    next(told)
    worker.finish_chunk(job_id, 0, [Item(name="p", image_id=None, outcome="skipped")])
    worker.redis.delete(keys.events(job_id))
    assert len([one for one in told if one == ": still here\n\n"]) < 50
    assert client.get(f"/v1/jobs/{job_id}/events").status_code == 204


def test_a_client_whose_place_was_lost_is_told_all_that_is_left(
    client: Client, worker: StandIn
) -> None:
    job_id = post(client, 10)
    finish(worker, job_id, 10)
    assert failures(follow(client, job_id, "1-1.1")) == ["p0", "p3", "p6", "p9"]
    assert follow(client, job_id, "1-1")[-1].event == "done"


def test_a_client_goes_on_in_the_middle_of_the_failures_of_one_chunk(
    client: Client, worker: StandIn
) -> None:
    def items(first: int) -> list[Item]:
        return [
            Item(name=f"p{n}", image_id=None, outcome="failed", error=BROKEN)
            for n in range(first, first + 4)
        ]

    job_id = post(client, 8)
    worker.finish_chunk(job_id, 0, items(0))
    told = pieces_of(client, job_id)
    next(told)
    seen = [read(next(told))[0] for _ in range(5)]
    assert [one.event for one in seen] == [*["item_failed"] * 4, "progress"]
    assert [one.id for one in seen[:4]] == [f"{seen[4].id}.{n}" for n in (1, 2, 3, 4)]
    resumed = pieces_of(client, job_id, seen[1].id)
    next(resumed)
    rest = [read(next(resumed))[0] for _ in range(3)]
    assert rest[:2] == seen[2:4]
    assert (rest[2].event, rest[2].id) == ("progress", seen[4].id)
    worker.finish_chunk(job_id, 1, items(4))
    last = read("".join(resumed))
    assert failures(last) == ["p4", "p5", "p6", "p7"]
    assert (last[-1].event, last[-1].data["progress"]["failed"]) == ("done", 8)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_stream_ends_with_the_job_and_looks_no_more(
    client: Client, worker: StandIn, is_resumed: bool
) -> None:
    job_id = post(client, 4)
    finish(worker, job_id, 4)
    first = follow(client, job_id)[0]
    told = pieces_of(client, job_id, first.id if is_resumed else None)
    assert any("event: done" in piece for piece in told)
    # Whoever looked again would find no job.
    worker.redis.flushall()
    assert next(told, None) is None


def test_events_are_told_in_batches_that_leave_none_out(
    client: Client, worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "BATCH", 2)
    job_id = post(client, 18)
    finish(worker, job_id, 18)
    events = follow(client, job_id)
    assert failures(events) == [f"p{n}" for n in range(0, 18, 3)]
    assert [one.event for one in events if one.event != "item_failed"] == [
        *["progress"] * (len(events) - 7),
        "done",
    ]
    assert len(events) > 8
