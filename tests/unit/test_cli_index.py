"""Which files are uploaded, in which batches, and what happens when the service is away."""

from __future__ import annotations

import os
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from played import Service, busy, job_answer, running
from servers import wait_until

from twinlens.cli.client import Picture, UploadRefused
from twinlens.cli.coco import Annotations
from twinlens.cli.errors import CommandFailed
from twinlens.cli.index import upload
from twinlens.cli.parallel import run_parallel
from twinlens.cli.plan import MAX_BATCH_FILES, Plan, make_batches
from twinlens.cli.sources import Source, Unreadable, find_files, zip_sources
from twinlens.cli.tracking import MAX_OPEN_JOBS, Totals, Tracker
from twinlens.shared.blobs import image_id_of


def test_pictures_and_archives_are_told_apart_and_named_once(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", ".c.jpg", "notes.txt", "more.zip", "x.tar.GZ", "l.ndjson"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.webp").touch()
    names = ("a.png", "notes.txt", "more.zip", "x.tar.GZ", "l.ndjson", "below", "a.png")
    files = find_files([tmp_path, *(tmp_path / name for name in names)])
    # What is named is sent, whatever it is called: the service says what it thinks of it.
    assert [path.name for path in files.pictures] == ["a.png", "b.JPG", "d.webp", "notes.txt"]
    assert [path.name for path in files.archives] == ["l.ndjson", "more.zip", "x.tar.GZ"]


def test_nothing_to_upload_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="there is no picture in"):
        find_files([tmp_path])
    with pytest.raises(CommandFailed, match="there is no picture in"):
        Plan([tmp_path], None).measure()


def source(name: str, size: int = 1) -> Source:
    return Source(PurePath(name), size, lambda: b"x" * size)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 8), st.integers(1, 100))
def test_batches_keep_all_files_in_order_and_under_both_limits(
    sizes: list[int], max_files: int, max_bytes: int
) -> None:
    sources = [source(str(n), size) for n, size in enumerate(sizes)]
    batches = list(make_batches(sources, max_files, max_bytes))
    assert [one for batch in batches for one in batch] == sources
    for batch in batches:
        assert 0 < len(batch) <= max_files
        assert len(batch) == 1 or sum(one.n_bytes for one in batch) <= max_bytes


def test_a_name_that_is_not_utf8_can_be_sent() -> None:
    assert source(os.fsdecode(b"\xe9t\xe9.jpg")).name == "\ufffdt\ufffd.jpg"


def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    def peak_bytes(folder: Path) -> int:
        plan = Plan([folder], None)
        tracemalloc.start()
        n_files = sum(len(batch) for batch in make_batches(plan.sources(lambda _: None)))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert n_files == len(list(folder.iterdir()))
        return peak

    for name, n_files in (("few", 512), ("many", 8192)):
        (tmp_path / name).mkdir()
        for n in range(n_files):
            (tmp_path / name / f"{n}.jpg").touch()
    assert peak_bytes(tmp_path / "many") < 1.5 * peak_bytes(tmp_path / "few")


# Zip archives that are read on this side.


def test_pictures_of_a_zip_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "val.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("val/1.jpg", "val/", "README.txt", "__MACOSX/._1.jpg", "2.PNG"):
            archive.writestr(name, f"bytes of {name}")
    found = list(zip_sources(path))
    assert [(one.name, one.read()) for one in found] == [
        ("1.jpg", b"bytes of val/1.jpg"),
        ("2.PNG", b"bytes of 2.PNG"),
    ]
    assert found[0].path == path / "val" / "1.jpg"


def test_a_damaged_zip_entry_cannot_be_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "val.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", "first one")
        archive.writestr("b.jpg", "second one")
    path.write_bytes(path.read_bytes().replace(b"first one", b"first ONE", 1))
    bad, good = zip_sources(path)
    with pytest.raises(Unreadable, match="CRC"):
        bad.read()
    assert good.read() == b"second one"


def test_what_is_no_zip_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_text("no archive")
    with pytest.raises(CommandFailed, match=r"no\.zip cannot be read as a zip archive"):
        Plan([tmp_path / "no.zip"], Annotations({"1.jpg": {"coco_id": 1}})).measure()


def test_annotations_of_other_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    annotations = Annotations({"2.jpg": {"coco_id": 2}})
    with pytest.raises(CommandFailed, match="none of the 1 pictures is named"):
        Plan([tmp_path], annotations).measure()
    with pytest.raises(CommandFailed, match=r"unpack .*x\.tar first"):
        Plan([tmp_path, tmp_path / "x.tar"], annotations)


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


# Jobs.


class Shown:
    """Stands for the bars: remembers what was shown last."""

    def __init__(self) -> None:
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

PICTURE = [Picture("a.jpg", b"bytes", {})]


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
    with service.client() as client, pytest.raises(CommandFailed, match="twinlens up"):
        client.add_pictures(PICTURE, "default")
    assert len(service.bodies) == 1


@pytest.mark.parametrize("failure", [busy(422), busy(409, None), busy(500, None)])
def test_what_is_refused_is_not_tried_again(failure: httpx.Response) -> None:
    if failure.status_code == 422:
        del failure.headers["Retry-After"]
    service = Service([failure])
    with service.client() as client, pytest.raises(CommandFailed):
        client.add_pictures(PICTURE, "default")
    assert len(service.bodies) == 1


def test_tries_have_an_end() -> None:
    service = Service([busy(503) for _ in range(9)])
    with service.client(outage_s=0) as client, pytest.raises(CommandFailed, match="503"):
        client.add_pictures(PICTURE, "default")
    assert len(service.bodies) == 5


def test_metadata_come_before_their_picture() -> None:
    service = Service()
    with service.client() as client:
        client.add_pictures(
            [Picture("a.jpg", b"A", {}), Picture("b.jpg", b"B", {"coco_id": 1})], "default"
        )
    [body] = service.bodies
    places = [body.index(part) for part in (b'"a.jpg"', b'"metadata"', b'"coco_id"', b'"b.jpg"')]
    assert places == sorted(places)
    assert body.count(b'name="metadata"') == 1


def test_an_archive_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with Service().client() as client, pytest.raises(UploadRefused, match="No such file"):
        client.add_archive(tmp_path / "none.zip", "application/zip", "default", lambda _: None)


# The whole of it.


def fill(folder: Path, n_files: int) -> set[str]:
    folder.mkdir()
    for n in range(n_files):
        (folder / f"{n}.jpg").write_bytes(b"%d" % n)
    return {image_id_of(b"%d" % n) for n in range(n_files)}


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
    service.there = fill(tmp_path / "photos", 300)
    with service.client() as client:
        totals = upload(client, [tmp_path / "photos"], "default")
    assert (totals.n_there, service.bodies) == (300, [])


def test_a_refused_archive_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    service = Service([httpx.Response(422)])
    fill(tmp_path / "photos", 3)
    (tmp_path / "bad.zip").write_text("no archive")
    with service.client() as client:
        totals = upload(client, [tmp_path / "photos", tmp_path / "bad.zip"], "default", 1)
    assert (totals.n_indexed, totals.n_failed) == (3, 1)
    assert totals.failures[0].startswith(f"{tmp_path / 'bad.zip'}: ")


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 3)
    totals_of: list[str] = []
    plan = Plan([tmp_path / "photos"], None)
    # As root every folder can be read, so one goes away meanwhile.
    (tmp_path / "photos" / "below").mkdir()
    sources = plan.sources(lambda error: totals_of.append(str(error.filename)))
    next(sources)
    (tmp_path / "photos" / "below").rmdir()
    assert len(list(sources)) == 2
    assert totals_of == [str(tmp_path / "photos" / "below")]


def test_what_was_done_is_known_after_an_outage_that_does_not_end(tmp_path: Path) -> None:
    service = Service([None, *(httpx.ConnectError("refused") for _ in range(9))])
    fill(tmp_path / "photos", MAX_BATCH_FILES + 1)
    totals = Totals()
    with service.client(outage_s=0) as client, pytest.raises(CommandFailed, match="up"):
        upload(client, [tmp_path / "photos"], "default", 1, totals=totals)
    assert totals.n_indexed == MAX_BATCH_FILES
    assert totals.took_s > 0
