"""A removal is done whole, however often it is begun, and spares what was posted again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.plain_uploads import ending, outcomes, upload
from support.servers import wait_until

from twinlens.shared.blobs import image_key, thumbnail_key

if TYPE_CHECKING:
    from pathlib import Path

    from support.inside_worker import WorkerProcess
    from support.requests import Client


def assert_gone(client: Client, process: WorkerProcess, image_id: str) -> None:
    assert client.get(f"/v1/images/{image_id}").status_code == 404
    assert process.runtime.images.count_vectors("default") == {"phash": 2}
    for key in (image_key("default", image_id), thumbnail_key("default", image_id)):
        with pytest.raises(FileNotFoundError):
            process.runtime.blobs.get(key)


def test_a_removal_that_was_broken_off_is_gone_on_with(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    process.runtime.images.make_thumbnail("default", filled[0])
    job_id = client.delete(f"/v1/images/{filled[0]}").json["id"]
    process.runtime.jobs.begin(job_id)
    process.runtime.catalog.remove("default", filled[0])  # and there its process died
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)
    assert_gone(client, process, filled[0])


def test_a_picture_that_was_removed_twice_is_gone_once(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    jobs = [client.delete(f"/v1/images/{filled[0]}").json["id"] for _ in range(2)]
    process.run_all("single")
    assert [ending(client, job_id) for job_id in jobs] == [("succeeded", None)] * 2
    assert_gone(client, process, filled[0])


def test_a_picture_that_is_posted_again_before_its_removal_is_not_lost(
    client: Client, process: WorkerProcess, filled: list[str], tmp_path: Path
) -> None:
    removal = client.delete(f"/v1/images/{filled[0]}").json["id"]
    asked_at = process.runtime.jobs.get(removal).created_at.timestamp()
    wait_until(lambda: file_time(tmp_path) > asked_at, 10)
    again = upload(client)
    process.run_next("single")
    process.run_next("bulk")
    assert outcomes(client, again) == ["succeeded", "skipped", "skipped"]
    assert client.get(f"/v1/images/{filled[0]}/content").status_code == 200


def file_time(folder: Path) -> float:
    """Returns what the clock says by which files are dated: it moves every few milliseconds."""
    probe = folder / "probe"
    probe.touch()
    return probe.stat().st_mtime
