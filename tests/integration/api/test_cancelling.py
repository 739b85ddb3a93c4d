"""What is cancelled goes no further, whatever it is and wherever it has got to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.plain_uploads import ending, upload, upload_one
from support.requests import assert_problem, form_body, post
from support.tiny_pair import plain_picture
from support.uploading import END, part, parts, post_pieces, the_job

from twinlens.api.accepting import arrival
from twinlens.shared.libraries import new_library
from twinlens.shared.redis import keys
from twinlens.workers.query import duplicates

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.settings import Settings


def cancel(client: Client, job_id: str) -> Any:
    return client.post(f"/v1/jobs/{job_id}/cancel")


def assert_cancelled(client: Client, job_id: str) -> None:
    for _ in range(2):
        answer = cancel(client, job_id)
        assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
        assert answer.json["finished_at"] is not None
    assert ending(client, job_id) == ("cancelled", None)


def test_chunks_that_have_not_begun_never_begin(client: Client, process: WorkerProcess) -> None:
    job_id = post(client, [(f"{n}.png", plain_picture(f"#{n:06x}")) for n in range(20)])
    process.run_next("bulk")
    assert_cancelled(client, job_id)
    process.runtime.feed.top_up(process.celery)
    process.run_all("bulk")
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("bulk") == []
    assert process.runtime.catalog.count("default") == 4, "what is embedded stays"
    assert (process.runtime.feed.backlog(), process.runtime.redis.zcard(keys.FED)) == (0, 0)
    assert_cancelled(client, job_id)


def test_what_has_ended_cannot_be_cancelled(client: Client, process: WorkerProcess) -> None:
    job_id = upload(client)
    process.run_all("bulk")
    problem = assert_problem(cancel(client, job_id), 409, "job-conflict")
    assert "succeeded" in problem["detail"]
    assert_problem(cancel(client, "nonesuch"), 404, "job-not-found")


@pytest.mark.parametrize("renew_s", [0.0, 3600.0])
def test_an_upload_that_still_arrives_is_stopped(
    client: Client, monkeypatch: pytest.MonkeyPatch, renew_s: float
) -> None:
    """Where Redis is asked while pieces arrive; or at the end of the chunk, at the latest."""
    monkeypatch.setattr(arrival, "RENEW_S", renew_s)
    read: list[int] = []
    more = [piece for n in range(9) for piece in (part(f"m{n}", b"%d" % n), lambda: read.append(1))]
    pieces = [*parts(6), lambda: assert_cancelled(client, the_job(client)["id"]), *more, END]
    problem = assert_problem(post_pieces(client, pieces, key="mine"), 409, "upload-cancelled")
    job = the_job(client)
    told = f"Job {job['id']} was cancelled; what was embedded by then is kept."
    assert problem["detail"] == told
    assert (job["status"], job["progress"]["received"]) == ("cancelled", 4)
    assert len(read) == (0 if renew_s == 0 else 3)
    assert post_pieces(client, [*parts(1), END], key="mine").status_code == 202


def test_what_waits_in_the_queue_is_passed_over(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    asked = {
        "single": [
            upload_one(client),
            client.post("/v1/duplicates", json={}).json["id"],
            client.delete(f"/v1/images/{filled[0]}").json["id"],
        ],
        "search": [client.post("/v1/search", **form_body({"file": ("a", b"x")})).json["id"]],
    }
    for queue, jobs in asked.items():
        for job_id in jobs:
            assert_cancelled(client, job_id)
        process.run_all(queue)
        for job_id in jobs:
            assert_cancelled(client, job_id)
    assert client.get(f"/v1/images/{filled[0]}").status_code == 200


def test_a_search_for_duplicates_is_left(
    client: Client, process: WorkerProcess, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "READ_ROWS", 1)
    job_id = client.post("/v1/duplicates", json={}).json["id"]
    read: list[object] = []
    really_fetch = process.runtime.vectors.fetch

    def fetch(*args: Any) -> Any:
        read.append(args)
        assert_cancelled(client, job_id)
        return really_fetch(*args)

    monkeypatch.setattr(process.runtime.vectors, "fetch", fetch)
    process.run_next("single")
    assert (len(read), len(filled)) == (1, 3)
    assert_cancelled(client, job_id)


def test_a_removal_that_has_begun_is_done(
    client: Client, process: WorkerProcess, filled: list[str]
) -> None:
    job_id = client.delete(f"/v1/images/{filled[0]}").json["id"]
    process.runtime.jobs.begin(job_id)
    assert_problem(cancel(client, job_id), 409, "job-conflict")
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)


def test_the_removal_of_a_library_cannot_be_cancelled(
    client: Client, process: WorkerProcess
) -> None:
    process.runtime.catalog.ensure_library(new_library("art", ["phash@1"]))
    job_id = client.delete("/v1/libraries/art").json["id"]
    assert_problem(cancel(client, job_id), 409, "job-conflict")
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)


def test_an_upload_to_a_library_that_was_removed_can_be_cancelled(
    client: Client, process: WorkerProcess
) -> None:
    process.runtime.catalog.ensure_library(new_library("art", ["phash@1"]))
    job_id = upload(client, "art")
    client.delete("/v1/libraries/art")
    assert_cancelled(client, job_id)


def change(client: Client) -> str:
    answer = client.put("/v1/libraries/default", json={"models": ["phash", "efficientnet-lite0"]})
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


@pytest.mark.usefixtures("filled")
def test_a_change_of_a_library_is_given_up(client: Client, process: WorkerProcess) -> None:
    before = client.get("/v1/libraries/default").json
    planned, begun = change(client), ""
    assert_cancelled(client, planned)
    process.run_all("single")
    begun = change(client)
    process.run_next("single")
    assert_cancelled(client, begun)
    process.run_all("bulk")
    process.runtime.sweeper.sweep(process.celery)
    assert client.get("/v1/libraries/default").json == before
    assert process.runtime.feed.backlog() == 0


@pytest.mark.usefixtures("filled")
def test_a_change_that_has_just_been_switched_on_is_done(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = change(client)
    really_finish = process.runtime.jobs.finish

    def finish(*args: Any) -> None:
        assert_problem(cancel(client, job_id), 409, "job-conflict")
        really_finish(*args)

    monkeypatch.setattr(process.runtime.jobs, "finish", finish)
    process.run_all("single")
    process.run_all("bulk")
    assert ending(client, job_id) == ("succeeded", None)
    assert len(client.get("/v1/libraries/default").json["models"]) == 2


def test_it_is_on_the_disk_that_an_upload_was_cancelled(
    client: Client, process: WorkerProcess, settings: Settings
) -> None:
    job_id = upload(client)
    assert_cancelled(client, job_id)
    assert (settings.blob_dir / "manifests" / job_id / "cancelled").exists()
    search = client.post("/v1/duplicates", json={}).json["id"]
    assert_cancelled(client, search)
    assert not (settings.blob_dir / "manifests" / search).exists()
