"""Manifests go with their jobs, and so do pictures that came to nothing; what counts is kept."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.clocks import Clock
from support.plain_uploads import IDS, PICTURES, codes, upload, upload_one
from support.requests import assert_problem, post
from support.servers import wait_until
from support.uploading import BREAK, manifests_of, parts, post_pieces

from twinlens.shared.blobs import CLOCK_TICK_S, BlobStore, image_id_of, image_key
from twinlens.shared.messages import Description
from twinlens.shared.redis import keys
from twinlens.workers.library import expiry

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.messages import Image
    from twinlens.shared.settings import Settings

BROKEN = b"no picture"
BROKEN_KEY = image_key("default", image_id_of(BROKEN))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"job_ttl_s": 3_600})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def sweep(process: WorkerProcess) -> None:
    process.runtime.redis.delete(keys.SWEEP)
    process.runtime.sweeper.sweep(process.celery)


def pass_life(process: WorkerProcess, clock: Clock) -> None:
    """Lets more time go by than a job lives, and has it noticed."""
    clock.ahead_s += 3_700
    sweep(process)


def journal_of(process: WorkerProcess, library_id: str = "default") -> dict[str, Image | None]:
    """Returns what the journal says last of each image."""
    lines = process.runtime.images.journal.read(library_id)
    return {line.image_id: line.image for line in lines}


def catalogued(process: WorkerProcess) -> dict[str, Image | None]:
    entries = process.runtime.catalog.all_entries("default")
    return {one.image.id: one.image for one in entries}


def test_manifests_stay_as_long_as_their_job(
    client: Client, process: WorkerProcess, settings: Settings, clock: Clock
) -> None:
    upload(client)
    clock.ahead_s = 10_000
    sweep(process)
    assert len(manifests_of(settings)) == 1, "it has not ended"
    process.run_all("bulk")
    clock.ahead_s += 3_500
    sweep(process)
    assert len(manifests_of(settings)) == 1, "it can be asked for"
    assert journal_of(process) == {}
    pass_life(process, clock)
    assert manifests_of(settings) == []
    assert not list((settings.blob_dir / "manifests").iterdir())
    assert not process.runtime.redis.exists(keys.MANIFESTS)
    assert journal_of(process) == catalogued(process)
    assert sorted(journal_of(process)) == sorted(IDS)


def test_a_life_is_ended_a_part_at_a_time(
    client: Client,
    process: WorkerProcess,
    settings: Settings,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expiry, "MAX_CHUNKS", 2)
    post(client, [(f"{n}", b"no picture %d" % n) for n in range(12)])
    process.run_all("bulk")
    upload(client)
    process.run_all("bulk")
    for n_left in (2, 0):
        pass_life(process, clock)
        assert len(manifests_of(settings)) == n_left
    assert sorted(journal_of(process)) == sorted(IDS)


def test_bytes_that_never_became_an_image_go_with_their_job(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    job_id = post(client, [("broken.png", BROKEN), *PICTURES.items()])
    process.run_all("bulk")
    assert codes(client, job_id) == ["unsupported-picture", None, None, None]
    sweep(process)
    assert process.runtime.blobs.get(BROKEN_KEY) == BROKEN
    pass_life(process, clock)
    assert process.runtime.blobs.touched_at(BROKEN_KEY) is None
    for image_id in IDS:
        assert client.get(f"/v1/images/{image_id}/content").status_code == 200


def test_a_picture_that_failed_stays_if_it_was_posted_again_since(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    post(client, [("broken.png", BROKEN)])
    process.run_all("bulk")
    first_at = process.runtime.blobs.touched_at(BROKEN_KEY)
    while process.runtime.blobs.touched_at(BROKEN_KEY) == first_at:  # a tick of the file's clock
        process.runtime.blobs.put(BROKEN_KEY, BROKEN)
    pass_life(process, clock)
    assert process.runtime.blobs.get(BROKEN_KEY) == BROKEN


def test_nothing_goes_while_an_upload_that_may_name_it_is_open(
    client: Client, process: WorkerProcess, settings: Settings, clock: Clock
) -> None:
    post(client, [("broken.png", BROKEN)])
    process.run_all("bulk")
    other = process.runtime.jobs.get(upload(client))
    process.runtime.redis.zadd(
        keys.open_uploads("default"), {other.id: other.created_at.timestamp() - 60}
    )
    pass_life(process, clock)
    assert process.runtime.blobs.get(BROKEN_KEY) == BROKEN
    process.run_all("bulk")
    pass_life(process, clock)
    assert process.runtime.blobs.touched_at(BROKEN_KEY) is None
    assert manifests_of(settings) == []


def test_a_retry_keeps_the_pictures_of_the_job_before(
    client: Client, process: WorkerProcess, settings: Settings, clock: Clock
) -> None:
    job_id = post(client, [("broken.png", BROKEN)])
    process.run_all("bulk")
    clock.ahead_s = 3_500
    assert client.post(f"/v1/jobs/{job_id}/retry").status_code == 202
    process.run_all("single")
    process.run_all("bulk")
    clock.ahead_s = 3_700
    sweep(process)
    assert_problem(client.get(f"/v1/jobs/{job_id}"), 410, "job-expired")
    assert len(manifests_of(settings)) == 1
    assert process.runtime.blobs.get(BROKEN_KEY) == BROKEN
    pass_life(process, clock)
    assert manifests_of(settings) == []
    assert process.runtime.blobs.touched_at(BROKEN_KEY) is None


def test_what_a_broken_upload_left_goes_as_well(
    client: Client, process: WorkerProcess, settings: Settings, clock: Clock
) -> None:
    post_pieces(client, [*parts(6), BREAK])
    process.run_all("bulk")
    pass_life(process, clock)
    assert manifests_of(settings) == []
    images = settings.blob_dir / "images"
    assert [path for path in images.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("is_first_ended", [False, True])
def test_what_is_said_of_an_image_later_is_in_the_journal_last(
    client: Client, process: WorkerProcess, clock: Clock, is_first_ended: bool
) -> None:
    upload(client)
    process.run_all("bulk")
    if is_first_ended:
        pass_life(process, clock)
    process.runtime.amendments.change("default", IDS[0], Description(metadata={"n": 1}))
    said = journal_of(process)[IDS[0]]
    assert said is not None
    assert (said.name, said.metadata) == ("red.png", {"n": 1})
    post(client, [("other.png", PICTURES["red.png"])])  # another name, and no metadata
    process.run_all("bulk")
    said = journal_of(process)[IDS[0]]
    assert said is not None
    assert (said.name, said.metadata) == ("other.png", {"n": 1})
    pass_life(process, clock)
    assert journal_of(process) == catalogued(process)


def test_a_worker_that_is_stopped_before_it_has_noted_a_change_notes_it_in_the_end(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(client)
    process.run_all("bulk")
    job_id = post(client, [("other.png", PICTURES["red.png"])])
    journal = process.runtime.images.journal

    def stop(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as stopped:
        stopped.setattr(type(journal), "append", stop)
        process.run_next("bulk")
    assert journal_of(process) == {}
    process.run_all("bulk")
    assert codes(client, job_id) == [None]
    said = journal_of(process)[IDS[0]]
    assert said is not None
    assert said.name == "other.png"


def test_the_journal_does_not_grow_with_what_is_posted_again_and_again(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    for _ in range(3):
        upload(client)
        upload_one(client)
        process.run_all("bulk")
        process.run_all("single")
        pass_life(process, clock)
    assert len(list(process.runtime.images.journal.read("default"))) == len(IDS)


def test_the_journal_says_what_is_gone(client: Client, process: WorkerProcess) -> None:
    upload(client)
    process.run_all("bulk")
    client.delete(f"/v1/images/{IDS[0]}")
    process.run_all("single")
    assert journal_of(process) == {IDS[0]: None}


def test_what_is_changed_while_it_is_noted_is_noted_as_it_is_then(
    client: Client, process: WorkerProcess, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper has read the record, and another changes it and notes that first."""
    upload(client)
    process.run_all("bulk")
    journal = process.runtime.images.journal
    really_append = type(journal).append

    def append_late(*args: Any) -> None:
        monkeypatch.setattr(type(journal), "append", really_append)
        process.runtime.amendments.change("default", IDS[0], Description(name="mine.png"))
        really_append(*args)

    monkeypatch.setattr(type(journal), "append", append_late)
    pass_life(process, clock)
    assert journal_of(process) == catalogued(process)


def test_a_library_that_is_gone_gets_no_journal(
    client: Client, process: WorkerProcess, settings: Settings, clock: Clock
) -> None:
    client.put("/v1/libraries/art", json={"models": ["phash"]})
    upload(client, "art")
    process.run_all("bulk")
    client.delete("/v1/libraries/art")
    process.run_all("single")
    pass_life(process, clock)
    assert manifests_of(settings) == []
    assert process.runtime.blobs.names("journal") == []
    assert process.runtime.blobs.names("libraries") == ["default.json"]


def test_pictures_stay_if_it_is_the_catalogue_that_has_lost_them(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    """As a Redis does that makes room for what is new."""
    post(client, [("broken.png", BROKEN), *PICTURES.items()])
    process.run_all("bulk")
    process.runtime.redis.delete(keys.images("default"), keys.image_order("default"))
    pass_life(process, clock)
    for image_id in IDS:
        key = image_key("default", image_id)
        assert process.runtime.blobs.touched_at(key) is not None


def test_a_removal_is_done_though_it_cannot_be_noted_and_noted_in_the_end(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(client)
    process.run_all("bulk")
    first_at = process.runtime.blobs.touched_at(image_key("default", IDS[0]))
    assert first_at is not None
    wait_until(lambda: time.time() > first_at + 2 * CLOCK_TICK_S, 5)
    job_id = client.delete(f"/v1/images/{IDS[0]}").json["id"]

    def is_full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(BlobStore, "append", is_full)
        process.run_next("single")
    assert process.runtime.blobs.touched_at(image_key("default", IDS[0])) is None
    assert process.runtime.jobs.get(job_id).status == "running"
    process.run_all("single")
    assert process.runtime.jobs.get(job_id).status == "succeeded"
    assert journal_of(process) == {IDS[0]: None}
