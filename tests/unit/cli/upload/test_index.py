"""Uploads on threads, their jobs, and what happens when the service is away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.played import Service, busy, fill, job_answer, running
from support.servers import wait_until

from twinlens.cli.errors import CommandFailed
from twinlens.cli.upload.index import upload
from twinlens.cli.upload.parallel import run_parallel
from twinlens.cli.upload.plan import MAX_BATCH_FILES
from twinlens.cli.upload.tracking import MAX_OPEN_JOBS, Bars, Totals, Tracker
from twinlens.client.client import Upload
from twinlens.client.errors import RequestFailed, UploadRefused

# Threads.


def test_all_tasks_are_run_and_few_are_held() -> None:
    n_begun = n_ended = 0

    def tasks() -> Iterator[Callable[[], int]]:
        nonlocal n_begun
        for n in range(100):
            n_begun += 1
            assert n_begun - n_ended <= 6
            yield partial(int, n)

    results = []
    for result in run_parallel(tasks(), 3):
        n_ended += 1
        results.append(result)
    assert sorted(results) == list(range(100))


def test_an_upload_that_fails_ends_the_threads() -> None:
    def fail() -> None:
        raise CommandFailed("no")

    with pytest.raises(CommandFailed):
        list(run_parallel([fail] * 20, 2))
    wait_until(lambda: not any("run_parallel" in one.name for one in threading.enumerate()), 5)


def test_tasks_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=10)
    assert len(list(run_parallel([meeting.wait] * 3, 3))) == 3


def test_the_error_of_a_task_is_raised_and_the_rest_is_not_begun() -> None:
    begun = []

    def task(n: int) -> None:
        begun.append(n)
        if n == 3:
            raise CommandFailed("no")

    with pytest.raises(CommandFailed, match="no"):
        list(run_parallel((partial(task, n) for n in range(100)), 1))
    # One may have been begun just then.
    assert begun in ([0, 1, 2, 3], [0, 1, 2, 3, 4])


def test_what_waits_when_a_task_fails_is_not_begun_afterwards() -> None:
    begun, is_over = [], threading.Event()

    def task(n: int) -> None:
        begun.append(n)
        if n == 0:
            raise CommandFailed("no")
        is_over.wait(20)

    # Four are held; what was begun keeps both threads until the error is told.
    with pytest.raises(CommandFailed, match="no"):
        list(run_parallel((partial(task, n) for n in range(100)), 2))
    is_over.set()
    wait_until(lambda: not any("run_parallel" in one.name for one in threading.enumerate()), 20)
    assert set(begun) <= {0, 1, 2}


def test_a_ctrl_c_waits_for_no_upload() -> None:
    def is_waited_for() -> bool:
        return not threading.current_thread().daemon

    assert list(run_parallel([is_waited_for] * 2, 2)) == [False, False]


# Jobs.


class Shown(Bars):
    """Remembers what was shown last."""

    def __init__(self) -> None:
        super().__init__(None)
        self.n_done = self.n_known = 0

    def show(self, n_done: int, n_known: int) -> None:
        self.n_done, self.n_known = n_done, n_known


def test_few_jobs_are_held_and_all_are_counted() -> None:
    service, totals, bars = Service(), Totals(), Shown()
    n_jobs = 3 * MAX_OPEN_JOBS
    jobs = [job_answer(f"{n}", 2) for n in range(n_jobs)]
    service.jobs = {job.id: job for job in jobs}
    with service.client() as client:
        tracker = Tracker(client, totals, bars, 2 * n_jobs)
        for job in jobs:
            tracker.add(job, is_archive=False)
        assert tracker.n_waiting == 0
        assert totals.n_indexed == 2 * (n_jobs - MAX_OPEN_JOBS)
        tracker.wait()
    assert totals.n_indexed == bars.n_done == bars.n_known == 2 * n_jobs


def test_an_archive_that_is_still_read_has_no_total_yet() -> None:
    service, totals, bars = Service(), Totals(), Shown()
    job = running("a", 3, total=None)
    service.jobs = {"a": job}
    with service.client() as client:
        tracker = Tracker(client, totals, bars, 10)
        tracker.add(job, is_archive=True)
        tracker.look()
        assert (bars.n_done, bars.n_known) == (3, 13)
        service.jobs["a"] = job_answer("a", 5)
        tracker.wait()
    assert (bars.n_done, bars.n_known, totals.n_indexed) == (5, 15, 5)


# The client, with a service that is sometimes away.

PICTURE = [Upload("a.jpg", b"bytes", {})]


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("cut off"),
        busy(503),
        busy(429),
        busy(409),
        busy(502, None),
    ],
)
def test_an_upload_is_tried_again_whole(failure: Any) -> None:
    service = Service([failure])
    with service.client() as client:
        client.missing([], "default")
        assert client.add_pictures(PICTURE, "default").progress.succeeded == 1
    assert [body.count(b"bytes") for body in service.bodies] == [1, 1]


def test_a_service_that_never_answered_is_not_waited_for() -> None:
    service = Service([httpx.ConnectError("refused")])
    with service.client() as client, pytest.raises(RequestFailed, match="twinlens up"):
        client.add_pictures(PICTURE, "default")
    assert len(service.bodies) == 1


@pytest.mark.parametrize("failure", [busy(422), busy(409, None), busy(500, None)])
def test_what_is_refused_is_not_tried_again(failure: httpx.Response) -> None:
    if failure.status_code == 422:
        del failure.headers["Retry-After"]
    service = Service([failure])
    with service.client() as client, pytest.raises(RequestFailed):
        client.add_pictures(PICTURE, "default")
    assert len(service.bodies) == 1


def test_tries_have_an_end() -> None:
    service = Service([busy(503) for _ in range(9)])
    with service.client(outage_s=0) as client, pytest.raises(RequestFailed, match="503"):
        client.add_pictures(PICTURE, "default")
    assert len(service.bodies) == 5


def test_metadata_come_before_their_picture() -> None:
    service = Service()
    with service.client() as client:
        client.add_pictures(
            [Upload("a.jpg", b"A"), Upload("b.jpg", b"B", {"coco_id": 1})], "default"
        )
    [body] = service.bodies
    places = [body.index(part) for part in (b'"a.jpg"', b'"metadata"', b'"coco_id"', b'"b.jpg"')]
    assert places == sorted(places)
    assert body.count(b'name="metadata"') == 1


def test_an_archive_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with Service().client() as client, pytest.raises(UploadRefused, match="No such file"):
        client.add_archive(tmp_path / "none.zip", "application/zip", "default", lambda _: None)


# The whole of it.


def test_only_what_is_missing_is_uploaded(tmp_path: Path) -> None:
    service = Service()
    ids = sorted(fill(tmp_path / "photos", 2 * MAX_BATCH_FILES + 10))
    service.there = set(ids[5:])
    (tmp_path / "photos" / "gone.jpg").symlink_to("nowhere")
    with service.client() as client:
        totals = upload(client, [tmp_path / "photos"], "default")
    assert (totals.n_indexed, totals.n_there, totals.n_failed) == (5, len(ids) - 5, 1)
    assert totals.failures == [f"{tmp_path / 'photos' / 'gone.jpg'}: No such file or directory"]
    assert sum(body.count(b'name="files"') for body in service.bodies) == 5


def test_where_all_is_there_nothing_is_uploaded(tmp_path: Path) -> None:
    service = Service()
    service.there = set(fill(tmp_path / "photos", 300))
    with service.client() as client:
        totals = upload(client, [tmp_path / "photos"], "default")
    assert (totals.n_there, service.bodies) == (300, [])


def test_a_refused_archive_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    service = Service([httpx.Response(422)])
    fill(tmp_path / "photos", 3)
    (tmp_path / "bad.tar").write_text("no archive")
    with service.client() as client:
        totals = upload(client, [tmp_path / "photos", tmp_path / "bad.tar"], "default", 1)
    assert (totals.n_indexed, totals.n_failed) == (3, 1)
    assert totals.failures[0].startswith(f"{tmp_path / 'bad.tar'}: ")


def test_what_was_done_is_known_after_an_outage_that_does_not_end(tmp_path: Path) -> None:
    service = Service([None, *(httpx.ConnectError("refused") for _ in range(9))])
    fill(tmp_path / "photos", MAX_BATCH_FILES + 1)
    totals = Totals()
    with service.client(outage_s=0) as client, pytest.raises(RequestFailed, match="up"):
        upload(client, [tmp_path / "photos"], "default", 1, totals=totals)
    assert totals.n_indexed == MAX_BATCH_FILES
    assert totals.took_s > 0
