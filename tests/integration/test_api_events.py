"""A job's events: in order, as they happen, and resumed anywhere without loss."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from integration.conftest import assert_problem, form_body

from twinlens.api.limits import MAX_STREAMS
from twinlens.shared.errors import BrokenPicture
from twinlens.shared.messages import Item

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from integration.conftest import StandIn


BROKEN = BrokenPicture("It is broken.").to_problem()


class Told(NamedTuple):
    id: str
    event: str
    data: Any


def read(text: str) -> list[Told]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in fields:
            found.append(Told(fields["id"], fields["event"], json.loads(fields["data"])))
    return found


def follow(client: FlaskClient, job_id: str, last: str | None = None) -> list[Told]:
    """Reads a job's events until the stream ends."""
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    return read(answer.text)


def post(client: FlaskClient, n_pictures: int) -> str:
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


def test_what_happened_is_told_to_who_comes_late(client: FlaskClient, worker: StandIn) -> None:
    job_id = post(client, 10)
    finish(worker, job_id, 10)
    events = follow(client, job_id)
    assert failures(events) == ["p0", "p3", "p6", "p9"]
    assert events[0].data["error"]["type"] == "urn:twinlens:problem:broken-picture"
    assert [one.event for one in events if one.event != "item_failed"] == ["done"]
    assert events[-1].data == client.get(f"/v1/jobs/{job_id}").json


def test_a_stream_can_be_resumed_after_any_event(client: FlaskClient, worker: StandIn) -> None:
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
    client: FlaskClient, worker: StandIn
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
def test_an_id_that_was_never_given_is_refused(client: FlaskClient, last: str) -> None:
    job_id = post(client, 1)
    answer = client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last})
    problem = assert_problem(answer, 422, "validation-failed")
    assert problem["errors"][0]["location"] == "Last-Event-ID"


def test_events_of_no_job_are_not_found(client: FlaskClient) -> None:
    assert_problem(client.get("/v1/jobs/none/events"), 404, "job-not-found")


def test_streams_leave_threads_for_others(client: FlaskClient, worker: StandIn) -> None:
    job_id = post(client, 1)
    path = f"/v1/jobs/{job_id}/events"
    streams = [client.get(path, buffered=False) for _ in range(MAX_STREAMS)]
    assert_problem(client.get(path), 503, "queue-full")
    for stream in streams:
        stream.close()
    finish(worker, job_id, 1)
    assert follow(client, job_id)[-1].event == "done"
