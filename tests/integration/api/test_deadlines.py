"""A job that is not done by its deadline fails; what of it is done stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.clocks import Clock
from support.plain_uploads import IDS, PICTURES, ending, job_of, outcomes, upload
from support.receivers import SECRET
from support.requests import assert_problem, form_body
from support.tiny_pair import plain_picture
from support.uploading import END, part, parts, post_pieces, the_job

from twinlens.api.accepting import arrival
from twinlens.shared.redis import keys
from twinlens.workers.query import duplicates

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.settings import Settings

LATE = ("failed", "deadline-exceeded")
SOON = {"deadline_s": "60"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def sweep(process: WorkerProcess) -> None:
    process.runtime.redis.delete(keys.SWEEP)  # as its life of some seconds does
    process.runtime.sweeper.sweep(process.celery)


def post_many(client: Client) -> str:
    """Posts 20 pictures, in chunks of four."""
    files = [("files", (f"{n}.png", plain_picture(f"#{n:06x}"))) for n in range(20)]
    answer = client.post("/v1/images/bulk", query_string=SOON, **form_body(files))
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


def test_what_has_not_begun_by_then_never_begins(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    job_id = post_many(client)
    process.run_next("bulk")
    clock.ahead_s = 50
    sweep(process)
    assert ending(client, job_id) == ("running", None)
    process.run_next("bulk")
    clock.ahead_s = 61
    process.run_all("bulk")
    assert process.runtime.catalog.count("default") == 8, "what is embedded stays"
    sweep(process)
    assert ending(client, job_id) == LATE
    assert job_of(client, job_id)["expires_at"] is not None
    sweep(process)
    assert process.queued("bulk") == []
    assert (process.runtime.feed.backlog(), process.runtime.redis.zcard(keys.FED)) == (0, 0)
    assert not process.runtime.redis.exists(keys.DEADLINES)


def test_the_rest_can_be_retried(client: Client, process: WorkerProcess, clock: Clock) -> None:
    job_id = post_many(client)
    process.run_next("bulk")
    clock.ahead_s = 61
    sweep(process)
    again = client.post(f"/v1/jobs/{job_id}/retry").json["id"]
    process.run_all("single")
    process.run_all("bulk")
    assert outcomes(client, again) == ["succeeded"] * 16
    assert job_of(client, again)["deadline_at"] is None


def test_what_is_done_before_stays_as_it_is(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    job_id = upload(client, **SOON)
    process.run_all("bulk")
    clock.ahead_s = 61
    sweep(process)
    assert ending(client, job_id) == ("succeeded", None)


def test_a_task_that_waits_until_then_is_not_begun(
    client: Client, process: WorkerProcess, filled: list[str], clock: Clock
) -> None:
    sent = {"query_string": SOON}
    asked = {
        "single": [
            client.post("/v1/images", data=PICTURES["red.png"], content_type="image/png", **sent),
            client.post("/v1/duplicates", json={}, **sent),
            client.delete(f"/v1/images/{filled[0]}", **sent),
            client.post("/v1/images/delete", json={"ids": filled[1:2]}, **sent),
        ],
        "search": [client.post("/v1/search", json={"image_id": filled[0]}, **sent)],
    }
    clock.ahead_s = 61
    for queue in asked:
        process.run_all(queue)
    sweep(process)
    for answers in asked.values():
        for answer in answers:
            assert ending(client, answer.json["id"]) == LATE
    assert process.runtime.catalog.count("default") == len(IDS)


def test_a_search_for_duplicates_is_left(
    client: Client,
    process: WorkerProcess,
    filled: list[str],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "READ_ROWS", 1)
    job_id = client.post("/v1/duplicates", json={}, query_string=SOON).json["id"]
    read: list[object] = []
    really_fetch = process.runtime.vectors.fetch

    def fetch(*args: Any) -> Any:
        read.append(args)
        if len(read) == 1:
            clock.ahead_s = 61
            process.runtime.sweeper._end_late_jobs()
        return really_fetch(*args)

    monkeypatch.setattr(process.runtime.vectors, "fetch", fetch)
    process.run_next("single")
    assert len(read) == 1
    assert ending(client, job_id) == LATE


def test_a_removal_that_has_begun_is_done(
    client: Client, process: WorkerProcess, filled: list[str], clock: Clock
) -> None:
    job_id = client.delete(f"/v1/images/{filled[0]}", query_string=SOON).json["id"]
    process.runtime.jobs.begin(job_id)
    clock.ahead_s = 61
    sweep(process)
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("n_chunks", [0, 1])
def test_a_change_of_a_library_is_given_up(
    client: Client, process: WorkerProcess, clock: Clock, n_chunks: int
) -> None:
    before = client.get("/v1/libraries/default").json
    plan = {"models": ["phash", "efficientnet-lite0"]}
    job_id = client.put("/v1/libraries/default", json=plan, query_string=SOON).json["id"]
    for _ in range(n_chunks):
        process.run_next("single")
    clock.ahead_s = 61
    process.run_all("bulk")
    sweep(process)
    assert ending(client, job_id) == LATE
    assert client.get("/v1/libraries/default").json == before


@pytest.mark.usefixtures("filled")
def test_a_sweeper_that_died_halfway_is_made_up_for(
    client: Client, process: WorkerProcess, clock: Clock
) -> None:
    plan = {"models": ["phash", "efficientnet-lite0"]}
    job_id = client.put("/v1/libraries/default", json=plan, query_string=SOON).json["id"]
    process.run_next("single")
    assert process.runtime.catalog.give_up_plan("default", job_id)
    clock.ahead_s = 61
    sweep(process)
    assert ending(client, job_id) == LATE


@pytest.mark.usefixtures("filled")
def test_a_change_that_has_just_been_switched_on_is_done(
    client: Client, process: WorkerProcess, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"models": ["phash", "efficientnet-lite0"]}
    job_id = client.put("/v1/libraries/default", json=plan, query_string=SOON).json["id"]
    really_finish, finished = process.runtime.jobs.finish, list[str]()

    def finish(job_id: str, *args: Any) -> None:
        finished.append(job_id)
        if len(finished) == 1:
            clock.ahead_s = 61
            sweep(process)
        really_finish(job_id, *args)

    process.run_next("single")
    monkeypatch.setattr(process.runtime.jobs, "finish", finish)
    process.run_all("bulk")
    assert set(finished) == {job_id}  # by the sweep as well
    assert ending(client, job_id) == ("succeeded", None)
    assert len(client.get("/v1/libraries/default").json["models"]) == 2


@pytest.mark.parametrize("renew_s", [0.0, 3600.0])
def test_an_upload_that_still_arrives_is_stopped(
    client: Client,
    process: WorkerProcess,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    renew_s: float,
) -> None:
    """While pieces arrive; or once a chunk of them is full, at the latest."""
    monkeypatch.setattr(arrival, "RENEW_S", renew_s)
    read: list[int] = []

    def be_late() -> None:
        clock.ahead_s = 61
        sweep(process)

    more = [piece for n in range(9) for piece in (part(f"m{n}", b"%d" % n), lambda: read.append(1))]
    pieces = [*parts(6), be_late, *more, END]
    answer = post_pieces(client, pieces, key="mine", **SOON)
    assert_problem(answer, 504, "deadline-exceeded")
    job = the_job(client)
    assert (ending(client, job["id"]), job["progress"]["received"]) == (LATE, 4)
    assert len(read) == (0 if renew_s == 0 else 3)
    assert post_pieces(client, [*parts(1), END], key="mine").status_code == 202


@pytest.fixture
def settings(settings: Settings) -> Settings:
    told = {"webhook_hosts": ["hooks.example"], "webhook_secret": SECRET}
    return settings.model_copy(update=told)


def test_who_wants_to_know_is_told(client: Client, process: WorkerProcess, clock: Clock) -> None:
    upload(client, webhook="https://hooks.example/", **SOON)
    clock.ahead_s = 61
    sweep(process)
    assert client.get("/v1/stats").json["webhooks"]["pending"] == 1
