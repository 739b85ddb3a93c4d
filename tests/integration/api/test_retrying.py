"""What failed of a job is done once more, as another job, from what is stored."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.plain_uploads import IDS, PICTURES, codes, ending, job_of, outcomes, upload, upload_one
from support.requests import assert_problem, form_body, post
from support.uploading import manifests_of

from twinlens.shared.blobs import image_key
from twinlens.shared.errors import Internal
from twinlens.shared.libraries import new_library

if TYPE_CHECKING:
    from pathlib import Path

    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.settings import Settings


def retry(client: Client, job_id: str, key: str | None = None) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(f"/v1/jobs/{job_id}/retry", headers=headers)


def retried(client: Client, process: WorkerProcess, job_id: str) -> str:
    """Retries a job, and does all of it. Returns the new job's id."""
    answer = retry(client, job_id)
    assert answer.status_code == 202, answer.text
    assert answer.json["links"]["retry_of"] == f"/v1/jobs/{job_id}"
    for queue in ("single", "bulk"):
        process.run_all(queue)
    return str(answer.json["id"])


def names(client: Client, job_id: str) -> list[str]:
    return [item["name"] for item in client.get(f"/v1/jobs/{job_id}/items").json["items"]]


def post_broken(client: Client, n_pictures: int) -> str:
    return post(client, [(f"{n}.png", b"no picture %d" % n) for n in range(n_pictures)])


def test_a_picture_that_failed_is_embedded_as_it_was_sent(
    client: Client, process: WorkerProcess
) -> None:
    said = (io.BytesIO(json.dumps({"year": 2026}).encode()), "", "application/json")
    files = [(io.BytesIO(content), name) for name, content in PICTURES.items()]
    answer = client.post("/v1/images/bulk", data={"metadata": said, "files": files})
    job_id = answer.json["id"]
    process.runtime.blobs.delete(image_key("default", IDS[0]))
    process.run_all("bulk")
    assert codes(client, job_id) == ["content-missing", None, None]
    process.runtime.blobs.put(image_key("default", IDS[0]), PICTURES["red.png"])

    again = retried(client, process, job_id)
    assert (outcomes(client, again), names(client, again)) == (["succeeded"], ["red.png"])
    assert client.get(f"/v1/images/{IDS[0]}").json["metadata"] == {"year": 2026}
    assert ending(client, again) == ("succeeded", None)
    assert codes(client, job_id) == ["content-missing", None, None]
    assert "retry_of" not in job_of(client, job_id)["links"]


def test_what_is_gone_or_was_refused_fails_again_and_says_why(
    client: Client, process: WorkerProcess
) -> None:
    job_id = post(client, [("large.png", bytes(10_001)), *PICTURES.items()])
    process.runtime.blobs.delete(image_key("default", IDS[1]))
    process.run_all("bulk")
    again = retried(client, process, job_id)
    assert codes(client, again) == ["payload-too-large", "content-missing"]
    assert names(client, again)[0] == "large.png"
    assert ending(client, again)[0] == "failed"
    assert codes(client, retried(client, process, again)) == codes(client, again)


def test_one_picture_is_retried_too(client: Client, process: WorkerProcess) -> None:
    job_id = upload_one(client)
    process.runtime.blobs.delete(image_key("default", IDS[0]))
    process.run_all("single")
    process.runtime.blobs.put(image_key("default", IDS[0]), PICTURES["red.png"])
    assert outcomes(client, retried(client, process, job_id)) == ["succeeded"]


def test_what_is_no_failed_upload_is_not_retried(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    search = client.post("/v1/search", **form_body({"file": ("a", b"x")})).json["id"]
    process.run_all("search")
    cancelled, going_on = upload(client), post_broken(client, 1)
    client.post(f"/v1/jobs/{cancelled}/cancel")
    removal = client.delete(f"/v1/images/{filled[0]}").json["id"]
    for job_id in (search, cancelled, going_on, removal):
        assert_problem(retry(client, job_id), 409, "job-conflict")
    process.run_all("bulk")
    assert retry(client, going_on).status_code == 202
    assert_problem(retry(client, "nonesuch"), 404, "job-not-found")


def test_a_library_that_was_removed_takes_nothing(client: Client, process: WorkerProcess) -> None:
    process.runtime.catalog.ensure_library(new_library("art", ["phash@1"]))
    job_id = post(client, [("a.png", b"no picture")], "art")
    process.run_all("bulk")
    client.delete("/v1/libraries/art")
    assert_problem(retry(client, job_id), 404, "library-not-found")


def test_one_key_gives_one_job(client: Client, process: WorkerProcess) -> None:
    job_id = post_broken(client, 1)
    process.run_all("bulk")
    first, same, other = (retry(client, job_id, key) for key in ("mine", "mine", "yours"))
    assert same.json["id"] == first.json["id"] != other.json["id"]
    assert process.queued("single") == [first.json["id"], other.json["id"]]


def test_a_retry_that_waits_for_long_is_no_lost_upload(
    client: Client, process: WorkerProcess
) -> None:
    job_id = post_broken(client, 1)
    process.run_all("bulk")
    again = retry(client, job_id).json["id"]
    process.runtime.redis.delete(f"tl:job:{again}:arrival")  # its time is over
    process.runtime.sweeper.sweep(process.celery)
    assert ending(client, again) == ("queued", None)


def test_a_retry_that_was_broken_off_is_gone_on_with(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = post_broken(client, 10)
    process.run_all("bulk")
    again = retry(client, job_id).json["id"]
    really_add = process.runtime.feed.add_chunk

    def add_and_die(*args: Any) -> bool:
        really_add(*args)
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(process.runtime.feed, "add_chunk", add_and_die)
        process.run_next("single")
    assert job_of(client, again)["progress"]["received"] == 4
    process.run_all("single")
    process.run_all("bulk")
    assert names(client, again) == [f"{n}.png" for n in range(10)]
    assert job_of(client, again)["progress"]["total"] == 10


def manifest(settings: Settings, job_id: str, chunk: int) -> Path:
    return [path for path in manifests_of(settings) if job_id in str(path)][chunk]


def test_pictures_whose_manifest_is_gone_fail_with_a_reason(
    client: Client, process: WorkerProcess, settings: Settings
) -> None:
    job_id = post_broken(client, 5)
    process.run_all("bulk")
    manifest(settings, job_id, 0).unlink()
    again = retried(client, process, job_id)
    assert names(client, again) == [f"{n}.png" for n in range(5)]
    assert codes(client, again)[:4] == ["content-missing"] * 4


def test_of_a_job_that_failed_half_done_the_rest_is_retried(
    client: Client, process: WorkerProcess
) -> None:
    files = [*PICTURES.items(), ("broken.png", b"no picture"), ("late.png", b"neither")]
    job_id = post(client, files)
    process.run_next("bulk")
    process.runtime.jobs.finish(job_id, Internal("It is broken.").to_problem())
    assert names(client, retried(client, process, job_id)) == ["broken.png", "late.png"]


@pytest.mark.parametrize("when", ["before it is planned", "after"])
def test_a_retry_can_be_cancelled(client: Client, process: WorkerProcess, when: str) -> None:
    job_id = post_broken(client, 5)
    process.run_all("bulk")
    again = retry(client, job_id).json["id"]
    if when == "after":
        process.run_next("single")
    client.post(f"/v1/jobs/{again}/cancel")
    process.run_all("single")
    process.run_all("bulk")
    assert (ending(client, again), names(client, again)) == (("cancelled", None), [])
