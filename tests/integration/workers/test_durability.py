"""What a power cut, or a removal, leaves of what the API has accepted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.signals import before_task_publish
from support.disk import Disk
from support.embedding import delete_image, library_id, outcomes
from support.requests import form_body, post
from support.servers import wait_until
from support.tiny_pair import plain_picture

from twinlens.shared.blobs import (
    CLOCK_TICK_S,
    image_id_of,
    image_key,
    manifest_key,
    thumbnail_key,
)
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.workers.process.runtime import Runtime

PICTURE = b"\xff\xd8 the API never looks into a picture"
ID = image_id_of(PICTURE)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    return Disk(monkeypatch, tmp_path)


class Published:
    """What is on the disk, and which jobs are recorded, as each task is queued."""

    def __init__(self, disk: Disk, redis: Redis) -> None:
        self._disk, self._redis = disk, redis
        self.files: list[set[str]] = []
        self.is_recorded: list[bool] = []

    def look(self, body: Any, **_: Any) -> None:
        self.files.append(set(self._disk.after_power_cut()))
        self.is_recorded.append(bool(self._redis.exists(keys.job(body[1]["job_id"]))))


@pytest.fixture
def published(disk: Disk, redis: Redis) -> Iterator[Published]:
    listener = Published(disk, redis)
    before_task_publish.connect(listener.look)
    yield listener
    before_task_publish.disconnect(listener.look)


def kept(*paths: str) -> set[str]:
    return {f"blobs/{path}" for path in paths}


def test_a_picture_and_its_manifest_are_on_the_disk_before_its_job_is_there(
    client: Client, redis: Redis, disk: Disk, published: Published
) -> None:
    jobs_at_syncs: list[Any] = []
    disk.look = lambda: jobs_at_syncs.append(redis.zcard(keys.JOBS))
    answer = client.post("/v1/images", data=PICTURE, content_type="image/jpeg")
    assert set(jobs_at_syncs) == {0}
    wanted = kept(image_key("default", ID), manifest_key(answer.json["id"], 0))
    assert published.files == [wanted]
    assert published.is_recorded == [True], "a worker that is quick finds the job"


def test_a_chunk_is_on_the_disk_before_its_job_has_it(
    client: Client, redis: Redis, disk: Disk, published: Published
) -> None:
    pictures = [b"picture %d" % n for n in range(6)]
    n_chunks_at_syncs: list[tuple[int, int]] = []

    def look() -> None:
        stored = disk.after_power_cut()
        n_manifests = sum(path.startswith("blobs/manifests/") for path in stored)
        ids: list[Any] = redis.zrange(keys.JOBS, 0, -1)
        for job_id in ids:
            n_chunks = int(redis.hget(keys.job(job_id), "n_chunks") or 0)
            n_chunks_at_syncs.append((n_chunks, n_manifests))

    disk.look = look
    files = [("files", (f"{n}.jpg", content)) for n, content in enumerate(pictures)]
    job_id = client.post("/v1/images/bulk", **form_body(files)).json["id"]
    assert n_chunks_at_syncs, "the second chunk is stored while the first is the job's"
    assert all(n_chunks <= n_manifests for n_chunks, n_manifests in n_chunks_at_syncs)
    images = [image_key("default", image_id_of(content)) for content in pictures]
    assert published.files == [
        kept(*images[:4], manifest_key(job_id, 0)),
        kept(*images, manifest_key(job_id, 0), manifest_key(job_id, 1)),
    ]
    assert published.is_recorded == [True, True]


@pytest.mark.parametrize(("fails_at", "status"), [("fsync", 500), ("replace", 507)])
@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/bulk"])
def test_a_picture_that_cannot_be_stored_is_not_accepted(
    client: Client, worker: StandIn, disk: Disk, fails_at: Any, status: int, path: str
) -> None:
    disk.fails_at = fails_at
    part = "files" if path.endswith("bulk") else "file"
    assert client.post(path, **form_body({part: ("a.jpg", PICTURE)})).status_code == status
    assert client.get("/v1/jobs").json["items"] == []
    assert worker.queued() == []


# Removals.


@pytest.fixture
def stored(client: Client, runtime: Runtime) -> str:
    """A picture in the library `art`, whose file is not of this moment: its image id."""
    assert client.put("/v1/libraries/art", json={"models": ["phash"]}).status_code == 201
    content = plain_picture("red")
    assert outcomes(runtime, post(client, [("red", content)], "art")) == ["succeeded"]
    image_id = image_id_of(content)
    stored_at = path_of(runtime, image_key(library_id(runtime, "art"), image_id)).stat().st_mtime
    wait_until(lambda: time.time() > stored_at + 2 * CLOCK_TICK_S, 5)
    return image_id


def path_of(runtime: Runtime, key: str) -> Path:
    return runtime.settings.blob_dir / key


def ask_for_removal(client: Client, image_id: str) -> str:
    return str(client.delete(f"/v1/images/{image_id}?library=art").json["id"])


def test_a_picture_that_is_posted_again_while_its_removal_waits_is_kept(
    client: Client, runtime: Runtime, stored: str
) -> None:
    removals = [ask_for_removal(client, stored) for _ in range(2)]
    again = post(client, [("again.png", plain_picture("red"))], "art")
    for removal in removals:
        delete_image(runtime, removal, stored)
    assert outcomes(runtime, again) == ["succeeded"]
    assert client.get(f"/v1/images/{stored}/content?library=art").data == plain_picture("red")


def test_a_picture_that_was_posted_again_before_its_removal_is_removed(
    client: Client, runtime: Runtime, stored: str
) -> None:
    again = post(client, [("again.png", plain_picture("red"))], "art")
    assert outcomes(runtime, again) == ["updated"]
    path = path_of(runtime, image_key(library_id(runtime, "art"), stored))
    wait_until(lambda: time.time() > path.stat().st_mtime + 2 * CLOCK_TICK_S, 5)
    delete_image(runtime, ask_for_removal(client, stored), stored)
    assert not path.exists()


def test_a_removal_takes_the_thumbnail_with_it(
    client: Client, runtime: Runtime, stored: str, disk: Disk
) -> None:
    runtime.images.make_thumbnail(library_id(runtime, "art"), stored)
    small = thumbnail_key(library_id(runtime, "art"), stored)
    assert set(disk.after_power_cut()) >= kept(small)
    delete_image(runtime, ask_for_removal(client, stored), stored)
    assert not path_of(runtime, small).exists()
    assert not path_of(runtime, image_key(library_id(runtime, "art"), stored)).exists()
