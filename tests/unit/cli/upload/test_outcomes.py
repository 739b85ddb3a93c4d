"""What `twinlens index` counts, tells and ends with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath
from typing import Any, cast

import pytest
from support.played import (
    Service,
    as_json,
    as_json_page,
    busy,
    failed,
    fill,
    job_answer,
    running,
)

from twinlens.cli.upload.index import upload
from twinlens.cli.upload.picture_file import PictureFile
from twinlens.cli.upload.plan import Plan
from twinlens.cli.upload.sending import Sender
from twinlens.cli.upload.tracking import MAX_OPEN_JOBS, Bars, Totals, Tracker
from twinlens.client.client import Upload
from twinlens.client.errors import RequestFailed
from twinlens.shared.errors import Crashed
from twinlens.shared.files import open_regular
from twinlens.shared.messages import Metadata

# A job, as it is followed.


class Shown:
    """Stands for the bars: remembers what was shown last."""

    def __init__(self) -> None:
        self.last = (0, 0)

    def show(self, n_done: int, n_known: int) -> None:
        self.last = (n_done, n_known)


class Followed:
    """A tracker of a played service, with what it counts and shows."""

    def __init__(self, service: Service, n_pictures: int) -> None:
        self.totals, self.bars = Totals(), Shown()
        bars: Any = self.bars
        self.tracker = Tracker(service.client(), self.totals, bars, n_pictures)


@pytest.mark.parametrize(
    ("is_archive", "total", "shown", "n_waiting"),
    [
        (False, 9, (5, 20), 4),
        (True, 9, (5, 29), 4),
        (False, None, (5, 20), 0),
        (True, None, (5, 25), 0),
    ],
)
def test_a_job_that_runs_is_shown_as_far_as_it_is_known(
    is_archive: bool, total: int | None, shown: tuple[int, int], n_waiting: int
) -> None:
    service = Service()
    service.jobs["a"] = running("a", 2, skipped=1, failed=2, total=total)
    followed = Followed(service, 20)
    followed.tracker.add(service.jobs["a"], is_archive=is_archive)
    followed.tracker.look()
    assert followed.bars.last == shown
    assert followed.tracker.n_waiting == n_waiting
    assert followed.totals == Totals()


def test_an_upload_that_was_answered_and_not_told_of_is_waiting() -> None:
    service = Service([as_json(running("a", 0, total=3)), as_json(running("b", 1, total=3))])
    client, bars = service.client(), Shown()
    tracker = Tracker(client, Totals(), cast("Bars", bars), 6)
    for _ in range(2):
        client.add_pictures([Upload("a.jpg", b"bytes")], "default")
    tracker.add(client.open_jobs[0], is_archive=False)
    assert tracker.n_waiting == 3 + 2


@pytest.mark.parametrize("is_archive", [False, True])
def test_a_job_that_has_ended_is_counted_once(is_archive: bool) -> None:
    service = Service()
    service.jobs["a"] = job_answer("a", 2, skipped=1, failed=2, passed_over=9)
    service.items["a"] = [failed("x.jpg"), failed("y.jpg", None)]
    followed = Followed(service, 20)
    followed.tracker.add(running("a", 0, total=5), is_archive=is_archive)
    assert followed.tracker.n_waiting == 5
    followed.tracker.look()
    followed.tracker.wait()
    totals = followed.totals
    assert (totals.n_indexed, totals.n_there, totals.n_failed) == (2, 1, 2)
    assert str(totals.passed) == "passed over 9 files: 9 archived files; -v names them"
    assert totals.failures == ["x.jpg: It is no picture.", "y.jpg: no reason is known"]
    assert followed.bars.last == (5, 25 if is_archive else 20)
    assert followed.tracker.n_waiting == 0


def test_what_was_there_is_shown_as_done_where_no_job_is_open() -> None:
    followed = Followed(Service(), 20)
    followed.totals.n_there = 3
    followed.tracker.look()
    assert followed.bars.last == (3, 20)


def test_jobs_are_looked_at_up_to_the_first_that_runs_and_not_waited_for() -> None:
    service = Service()
    jobs = [job_answer("0", 1), job_answer("1", 1), running("2", 0, total=1), job_answer("3", 1)]
    service.jobs = {job.id: job for job in jobs}
    followed = Followed(service, 4)
    for job in jobs:
        followed.tracker.add(job, is_archive=False)
    assert service.requests == []
    followed.tracker.look()
    assert followed.totals.n_indexed == 2
    assert [request.url.path[-1] for request in service.requests] == ["0", "1", "2"]
    assert not any("Prefer" in request.headers for request in service.requests)


def test_where_too_many_jobs_are_open_the_oldest_is_waited_for() -> None:
    service = Service()
    seen = [running("0", 0, total=1), job_answer("0", 1)]
    service.answers["/v1/jobs/0"] = lambda _: as_json(seen.pop(0))
    followed = Followed(service, MAX_OPEN_JOBS + 1)
    for n in range(MAX_OPEN_JOBS):
        followed.tracker.add(running(str(n), 0, total=1), is_archive=False)
    assert service.requests == []
    followed.tracker.add(running("last", 0, total=1), is_archive=False)
    assert [request.headers["Prefer"] for request in service.requests] == ["wait=1"] * 2
    assert followed.tracker.n_waiting == MAX_OPEN_JOBS


def test_the_first_failures_are_kept_and_all_are_counted() -> None:
    service = Service()
    service.jobs = {name: job_answer(name, 0, failed=15) for name in "abc"}
    names = [f"{n}.jpg" for n in range(15)]
    for job_id in "abc":
        path = f"/v1/jobs/{job_id}/items"
        service.answers[path] = lambda request: as_json_page(
            [failed(name) for name in names][: int(request.url.params["limit"])]
        )
    followed = Followed(service, 45)
    for job in service.jobs.values():
        followed.tracker.add(job, is_archive=False)
    followed.tracker.wait()
    assert followed.totals.n_failed == 45
    assert len(followed.totals.failures) == 20
    asked = [one.url.params["limit"] for one in service.requests if one.url.path[-5:] == "items"]
    assert asked == ["20", "5"]


def test_pictures_that_failed_and_have_no_item_any_more_are_counted() -> None:
    service = Service()
    service.jobs["a"] = job_answer("a", 0, failed=3)
    service.items["a"] = [failed("x.jpg")]
    followed = Followed(service, 3)
    followed.tracker.add(service.jobs["a"], is_archive=False)
    followed.tracker.wait()
    assert (followed.totals.n_failed, len(followed.totals.failures)) == (3, 1)


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [("failed", Crashed("It died."), "It died."), ("cancelled", None, "no reason is known")],
)
def test_a_job_that_ends_otherwise_is_a_failure(
    status: Any, error: Crashed | None, reason: str
) -> None:
    service = Service()
    problem = error.to_problem() if error else None
    service.jobs["a"] = job_answer("a", 2, status=status, error=problem)
    followed = Followed(service, 2)
    followed.tracker.add(service.jobs["a"], is_archive=False)
    followed.tracker.wait()
    assert (followed.totals.n_indexed, followed.totals.n_failed) == (2, 1)
    assert followed.totals.failures == [f"job a: {status}: {reason}"]


def test_a_name_that_failed_cannot_upset_a_terminal() -> None:
    totals = Totals()
    totals.fail("a\x1b[2J\n.jpg", "It is no picture.")
    assert totals.failures == ["a[2J.jpg: It is no picture."]


def test_what_was_there_counts_in_the_rate_and_what_failed_does_not() -> None:
    totals = Totals(n_indexed=3, n_there=5, n_failed=2, took_s=4.0)
    assert str(totals) == "3 indexed, 5 already there, 2 failed; 2.0 pictures/s"
    assert totals.n_done == 10
    assert Totals().pictures_per_s == 0


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What a terminal shows, without styles."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    return lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)


def test_bars_are_drawn_of_what_was_read_and_done(drawn: Callable[[], str]) -> None:
    with Bars(5_000_000) as bars:
        bars.add_read(2_000_000)
        bars.add_read(1_000_000)
        bars.show(7, 9)
    read, done = drawn().splitlines()[-2:]
    assert "MB read" in read
    assert "3/5" in re.sub(r"\.0", "", read)
    assert "7/9" in done
    with Bars(None) as bars:
        bars.show(7, 3)
    only_done = drawn()
    assert "MB read" not in only_done
    assert "7/7" in only_done


def test_no_bars_are_drawn_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars(5_000_000) as bars:
        bars.show(7, 9)
        bars.say("a line")
    assert capsys.readouterr().err == "a line\n"


# A batch, as it is sent.


def picture_at(path: Path, **metadata: Any) -> PictureFile:
    n_bytes = path.stat().st_size if path.exists() else 0
    opener = partial(open_regular, path)
    return PictureFile(path, PurePath(path.name), n_bytes, opener, metadata=metadata)


def test_what_is_known_of_a_picture_goes_before_what_its_bytes_say(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"bytes")
    service = Service()
    with service.client() as client:

        def said(content: bytes) -> Metadata:
            return {"camera": content.decode(), "taken_at": "2019"}

        sender = Sender(client, "default", lambda _: None, said)
        sender.send_batch([picture_at(tmp_path / "a.jpg", taken_at="2020")])
    [body] = service.bodies
    assert json.dumps({"camera": "bytes", "taken_at": "2020"}).encode() in body


def test_of_a_batch_only_what_is_missing_is_sent_and_all_is_counted_as_read(tmp_path: Path) -> None:
    ids = fill(tmp_path / "photos", 4)
    (tmp_path / "photos" / "1.jpg").unlink()
    sources = [picture_at(tmp_path / "photos" / f"{n}.jpg", coco_id=10 + n) for n in range(4)]
    service, read = Service(), list[int]()
    service.there = {ids[2]}
    with service.client() as client:
        sent = Sender(client, "cats", read.append).send_batch(sources)
    assert sent.n_there == 1
    assert [tuple(one) for one in sent.failures] == [
        (str(tmp_path / "photos" / "1.jpg"), "No such file or directory")
    ]
    assert sent.job is not None
    assert not sent.is_archive
    [asked] = service.asked("/v1/images/missing")
    assert all(id_.encode() in asked.content for id_ in (ids[0], ids[2], ids[3]))
    [body] = service.bodies
    assert [name in body for name in (b'"0.jpg"', b'"2.jpg"', b'"3.jpg"')] == [True, False, True]
    assert [body.count(b'"coco_id": %d' % n) for n in range(10, 14)] == [1, 0, 0, 1]
    assert {request.url.params["library"] for request in service.requests} == {"cats"}
    assert sum(read) == sum(source.n_bytes for source in sources)


def test_what_is_there_with_other_metadata_is_sent_where_that_is_asked_for(tmp_path: Path) -> None:
    there = set(fill(tmp_path / "photos", 2))
    sources = [picture_at(tmp_path / "photos" / "0.jpg", coco_id=7)]
    sources.append(picture_at(tmp_path / "photos" / "1.jpg"))
    for is_updating, n_there in ((False, 2), (True, 0)):
        service = Service()
        service.there = there
        with service.client() as client:
            sender = Sender(client, "cats", lambda _: None, is_updating=is_updating)
            assert sender.send_batch(sources).n_there == n_there
        assert len(service.bodies) == is_updating
    [asked] = service.asked("/v1/images/missing")
    assert list(json.loads(asked.content)["described"].values()) == [
        {"metadata": {"coco_id": 7}},
        {},
    ]


def test_a_batch_of_which_nothing_can_be_read_asks_nothing(tmp_path: Path) -> None:
    service = Service()
    with service.client() as client:
        sender = Sender(client, "default", lambda _: None)
        sent = sender.send_batch([picture_at(tmp_path / "gone.jpg")])
    assert (sent.job, sent.n_there, len(sent.failures)) == (None, 0, 1)
    assert service.requests == []


def test_archives_and_pictures_are_both_sent_and_counted(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 3)
    (tmp_path / "more.tar.gz").write_bytes(b"packed")
    service = Service()
    with service.client() as client:
        totals = upload(client, [tmp_path / "photos", tmp_path / "more.tar.gz"], "cats", 2)
    assert totals.n_indexed == 3
    assert totals.took_s > 0
    types = {one.headers["Content-Type"] for one in service.asked("/v1/images/bulk")}
    assert "application/gzip" in types
    assert b"packed" in service.bodies
    assert Plan([tmp_path / "photos", tmp_path / "more.tar.gz"]).measure() == (3, 3 + 6)


def test_a_folder_that_cannot_be_read_is_counted_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "photos", 3)
    (tmp_path / "photos" / "locked").mkdir()
    real = os.scandir

    def scandir(path: Path) -> Any:
        # As root every folder can be read.
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with Service().client() as client:
        totals = upload(client, [tmp_path / "photos"], "default")
    assert (totals.n_indexed, totals.n_failed) == (3, 1)
    assert totals.failures == [f"{tmp_path / 'photos' / 'locked'}: Permission denied"]


def test_pictures_of_an_archive_are_known_while_it_is_worked_on(
    tmp_path: Path, drawn: Callable[[], str]
) -> None:
    (tmp_path / "more.tar").write_bytes(b"packed")
    service, totals = Service([as_json(running("a", 0, total=5))]), Totals()
    seen = [as_json(running("a", 1, total=5)), busy(500, None)]
    service.answers["/v1/jobs/a"] = lambda _: seen.pop(0)
    with service.client() as client, pytest.raises(RequestFailed):
        upload(client, [tmp_path / "more.tar"], "default", totals=totals)
    assert "1/5" in drawn().splitlines()[-1]
    assert totals.n_waiting == 4
