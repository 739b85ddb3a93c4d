from __future__ import annotations

import base64
import io
import itertools
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.records import image, summary
from support.requests import assert_problem, client_of, counts
from support.uploading import END, parts, post_pieces

from twinlens.api.routes import jobs as job_routes
from twinlens.shared.errors import BrokenPicture
from twinlens.shared.messages import Item, now
from twinlens.shared.redis import keys
from twinlens.shared.redis.jobs import MAX_READ, Job

if TYPE_CHECKING:
    from support.requests import Client
    from support.stand_in import StandIn

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


def submit(client: Client, content: bytes = b"picture") -> str:
    response = client.post("/v1/images", data=content, content_type="image/png")
    assert response.status_code == 202
    return str(response.json["id"])


def test_a_job_has_the_fields_of_the_contract(client: Client) -> None:
    job = client.get(f"/v1/jobs/{submit(client)}").json
    assert set(job) == {
        "id",
        "kind",
        "library",
        "status",
        "progress",
        "created_at",
        "started_at",
        "finished_at",
        "expires_at",
        "deadline_at",
        "result",
        "error",
        "webhook",
        "links",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job["created_at"])
    age = datetime.now(UTC) - datetime.fromisoformat(job["created_at"])
    assert abs(age.total_seconds()) < 60
    assert job["started_at"] is job["finished_at"] is job["expires_at"] is None


def test_a_poll_answers_304_until_something_changes(client: Client, worker: StandIn) -> None:
    path = f"/v1/jobs/{submit(client)}"
    tag = client.get(path).headers["ETag"]
    same = client.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.data, same.headers["ETag"]) == (304, b"", tag)
    assert same.headers["Vary"] == "Prefer"

    other = client.get(path, headers={"If-Match": '"another"', "If-None-Match": tag})
    assert (other.status_code, other.content_type) == (412, "application/problem+json")

    worker.jobs.start(path.rpartition("/")[2])
    changed = client.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json["status"]) == (200, "running")
    assert changed.headers["ETag"] != tag


def test_a_wait_ends_with_the_job(client: Client, worker: StandIn) -> None:
    job_id = submit(client)
    item = Item(name="", image_id=None, outcome="skipped")
    thread = threading.Timer(0.2, worker.finish_chunk, (job_id, 0, [item]))
    thread.start()
    began_at = time.monotonic()
    response = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "respond-async, wait=30"})
    thread.join()
    assert response.json["status"] == "succeeded"
    assert response.headers["Preference-Applied"] == "wait=30"
    assert time.monotonic() - began_at < 10


def test_a_wait_in_vain_answers_200_all_the_same(client: Client) -> None:
    response = client.get(f"/v1/jobs/{submit(client)}", headers={"Prefer": "wait=1"})
    assert (response.status_code, response.json["status"]) == (200, "queued")
    assert "Preference-Applied" not in response.headers


@pytest.mark.parametrize("prefer", ["wait=soon", "wait=-1", "wait", ";;,=,", "return=minimal"])
def test_garbage_in_prefer_is_ignored(client: Client, prefer: str) -> None:
    assert client.get(f"/v1/jobs/{submit(client)}", headers={"Prefer": prefer}).status_code == 200


def test_unknown_jobs_are_not_found(client: Client) -> None:
    for path in ("nope", "nope/items", "%00"):
        assert_problem(client.get(f"/v1/jobs/{path}"), 404, "job-not-found")


def test_an_expired_job_is_gone(client: Client, worker: StandIn) -> None:
    job_id = submit(client)
    worker.jobs.finish(job_id)
    worker.redis.hset(keys.job(job_id), "expires_at", "1.0")
    assert_problem(client.get(f"/v1/jobs/{job_id}"), 410, "job-expired")
    assert_problem(client.get(f"/v1/jobs/{job_id}/items"), 410, "job-expired")
    assert_problem(client.get(f"/v1/jobs/{job_id}/events"), 410, "job-expired")


def test_jobs_are_listed_newest_first_and_filtered(client: Client, worker: StandIn) -> None:
    worker.serve("lite0", library="other")
    ids = [submit(client, b"%d" % n) for n in range(5)]
    worker.jobs.finish(ids[1])
    worker.add(image("b" * 64, library="other"))
    removal = client.delete(f"/v1/images/{'b' * 64}?library=other").json["id"]

    assert listed(client, limit=2) == [removal, *ids[::-1]]
    assert listed(client, limit=100, status="succeeded") == [ids[1]]
    assert listed(client, limit=1, kind="embed", status="queued") == [
        *ids[:1:-1],
        ids[0],
    ]
    assert listed(client, limit=100, library="other") == [removal]


def listed(client: Client, **query: Any) -> list[str]:
    ids: list[str] = []
    while True:
        page = client.get("/v1/jobs", query_string=query).json
        ids += [job["id"] for job in page["items"]]
        if page["next_cursor"] is None:
            return ids
        query["cursor"] = page["next_cursor"]


@pytest.mark.parametrize(
    "wanted", [{"kind": "embed"}, {"library": "default"}, {"status": "succeeded"}]
)
@pytest.mark.parametrize("limit", [1, MAX_READ])
def test_a_page_looks_at_so_many_jobs_however_few_are_wanted(
    client: Client, worker: StandIn, wanted: dict[str, Any], limit: int
) -> None:
    oldest = submit(client)
    worker.jobs.finish(oldest)
    for n in range(MAX_READ):
        job = Job(id=f"{n}", kind="delete", library="other", created_at=now(), ttl_s=60)
        worker.jobs.create(job)

    def page(**query: Any) -> tuple[dict[str, Any], int]:
        worker.redis.config_resetstat()
        answer = client.get("/v1/jobs", query_string={"limit": limit} | wanted | query).json
        return answer, worker.redis.info("commandstats")["cmdstat_hgetall"]["calls"]

    first, n_read = page()
    assert (first["items"], n_read) == ([], MAX_READ)
    last, n_read = page(cursor=first["next_cursor"])
    assert ([job["id"] for job in last["items"]], n_read) == ([oldest], 1)
    assert last["next_cursor"] is None


@pytest.mark.parametrize("query", [{"kind": "x"}, {"status": "x"}, {"sort": "x"}, {"limit": -1}])
def test_bad_list_parameters_are_refused(client: Client, query: dict[str, Any]) -> None:
    problem = assert_problem(client.get("/v1/jobs", query_string=query), 422, "validation-failed")
    assert [error["location"] for error in problem["errors"]] == [f"query:{name}" for name in query]


# How long a job is kept.


def life_s(job: dict[str, Any]) -> float:
    """Returns for how long an ended job is kept."""
    ended, expires = (datetime.fromisoformat(job[at]) for at in ("finished_at", "expires_at"))
    return (expires - ended).total_seconds()


def test_a_job_is_kept_as_long_as_is_set_and_a_search_for_an_hour(
    settings: Settings, redis: Redis, worker: StandIn
) -> None:
    client = client_of(settings.model_copy(update={"job_ttl_s": 5 * 86_400}))
    worker.catalog.publish_models([summary("lite0"), summary("phash", metric="HAMMING")])
    client.put("/v1/libraries/art", json={"models": ["lite0", "phash"]})
    worker.add(image("a" * 64, library="art"))
    made = {
        "embed": submit(client),
        "bulk": post_pieces(client, [*parts(2), END]).json["id"],
        "duplicates": client.post("/v1/duplicates", json={"library": "art"}).json["id"],
        "delete": client.delete(f"/v1/images/{'a' * 64}?library=art").json["id"],
        "reindex": client.put("/v1/libraries/art", json={"models": ["lite0"], "metric": "IP"}).json[
            "id"
        ],
        "search": client.post("/v1/search", json={"library": "art", "image_id": "a" * 64}).json[
            "id"
        ],
    }
    for job_id in made.values():
        worker.jobs.finish(job_id)
    jobs = {kind: client.get(f"/v1/jobs/{job_id}").json for kind, job_id in made.items()}
    assert {kind: job["kind"] for kind, job in jobs.items()} == {kind: kind for kind in made}
    lives = {kind: round(life_s(job)) for kind, job in jobs.items()}  # told in milliseconds
    assert lives == dict.fromkeys(made, 5 * 86_400) | {"search": 3_600}


def test_every_job_remembers_the_request_that_made_it(client: Client, worker: StandIn) -> None:
    worker.serve("lite0")
    headers = {"X-Request-ID": "mine"}
    raw: dict[str, Any] = {"data": b"x", "content_type": "image/png", "headers": headers}
    bulk = {"files": (io.BytesIO(b"x"), "x")}
    search = {"file": (io.BytesIO(b"x"), "x")}
    for answer in (
        client.post("/v1/images", **raw),
        client.post("/v1/images/bulk", data=bulk, headers=headers),
        client.post("/v1/search", data=search, headers=headers),
    ):
        assert worker.jobs.get(answer.json["id"]).request_id == "mine"


# Polls and waits.


def test_a_poll_may_be_kept_by_its_client_alone_and_is_asked_again(client: Client) -> None:
    path = f"/v1/jobs/{submit(client)}"
    first = client.get(path)
    assert {"private", "no-cache"} == set(first.headers["Cache-Control"].split(", "))
    assert first.headers["Vary"] == "Prefer"
    same = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert same.headers["Cache-Control"] == first.headers["Cache-Control"]
    for other in ('"none"', '"999"', "W/"):
        assert client.get(path, headers={"If-None-Match": other}).status_code == 200
    weak = {"If-None-Match": f'"none", W/{first.headers["ETag"]}'}
    assert client.get(path, headers=weak).status_code == 304


def test_a_job_that_has_ended_is_not_waited_for(client: Client, worker: StandIn) -> None:
    job_id = submit(client)
    worker.finish_chunk(job_id, 0, [Item(name="", image_id=None, outcome="skipped")])
    answer = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=60"})
    assert (answer.json["status"], answer.headers["Preference-Applied"]) == ("succeeded", "wait=60")


def test_who_does_not_wait_is_told_when_to_look_again(client: Client) -> None:
    answer = client.post("/v1/images", data=b"x", content_type="image/png")
    assert answer.headers["Retry-After"] == "1"
    assert "Preference-Applied" not in answer.headers


def test_a_job_tells_when_it_will_have_ended_at_its_rate(client: Client, worker: StandIn) -> None:
    job_id = post_pieces(client, [*parts(10), END]).json["id"]
    assert client.get(f"/v1/jobs/{job_id}").json["progress"]["eta"] is None
    worker.finish_chunk(job_id, 0, [Item(name="", image_id=None, outcome="skipped")] * 4)
    progress = client.get(f"/v1/jobs/{job_id}").json["progress"]
    job = worker.jobs.get(job_id)
    assert job.counted_at is not None
    assert job.pictures_per_s
    assert progress["pictures_per_s"] == round(job.pictures_per_s, 2)
    ends_at = job.counted_at + timedelta(seconds=6 / job.pictures_per_s)
    assert abs(datetime.fromisoformat(progress["eta"]) - ends_at) < timedelta(milliseconds=2)


def test_a_job_of_one_task_that_failed_counts_as_one_failure(
    client: Client, worker: StandIn
) -> None:
    worker.serve("lite0")
    data = {"file": (io.BytesIO(b"x"), "x")}
    job_id = client.post("/v1/search", data=data).json["id"]
    worker.jobs.finish(job_id, BrokenPicture("It is broken.").to_problem())
    job = client.get(f"/v1/jobs/{job_id}").json
    assert (job["status"], job["result"]) == ("failed", None)
    assert job["error"]["type"] == "urn:twinlens:problem:broken-picture"
    assert counts(job) == {"total": 1, "succeeded": 0, "skipped": 0, "failed": 1}


def test_an_upload_whose_picture_was_removed_since_has_no_result(
    client: Client, worker: StandIn
) -> None:
    job_id = submit(client)
    worker.add(image("c" * 64))
    worker.finish_chunk(job_id, 0, [Item(name="", image_id="c" * 64, outcome="succeeded")])
    assert client.get(f"/v1/jobs/{job_id}").json["result"]["id"] == "c" * 64
    [listed] = client.get("/v1/jobs").json["items"]
    assert listed["result"] is None
    worker.catalog.remove("default", "c" * 64)
    job = client.get(f"/v1/jobs/{job_id}").json
    assert (job["status"], job["result"]) == ("succeeded", None)


# Outcomes.


def test_a_page_of_outcomes_reads_no_more_than_so_many_chunks(
    client: Client, worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_routes, "READ_CHUNKS", 2)
    monkeypatch.setattr(job_routes, "MAX_CHUNKS", 3)
    job_id = post_pieces(client, [*parts(26), END]).json["id"]
    names = [f"p{n}" for n in range(26)]
    for chunk in range(7):
        items = [
            Item(name=name, image_id=None, outcome="failed" if name == "p25" else "succeeded")
            for name in names[4 * chunk : 4 * chunk + 4]
        ]
        worker.finish_chunk(job_id, chunk, items)

    def pages(**query: Any) -> list[list[str]]:
        by_page = []
        while True:
            page = client.get(f"/v1/jobs/{job_id}/items", query_string=query).json
            by_page.append([item["name"] for item in page["items"]])
            if page["next_cursor"] is None:
                return by_page
            query["cursor"] = page["next_cursor"]

    assert pages(limit=100) == [names[:12], names[12:24], names[24:]]
    assert pages(limit=100, outcome="failed") == [[], [], ["p25"]]
    for limit in (1, 5, 12):
        assert list(itertools.chain(*pages(limit=limit))) == names


def tampered(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize("cursor", ["", "!", "é", "AAAA", "a", *map(tampered, ["", ":", "x:1"])])
def test_a_cursor_that_was_tampered_with_is_refused(
    client: Client, worker: StandIn, cursor: str
) -> None:
    worker.serve("lite0")
    job_id = submit(client)
    for path in ("images", "jobs", f"jobs/{job_id}/items", "models", "libraries"):
        answer = client.get(f"/v1/{path}", query_string={"cursor": cursor})
        problem = assert_problem(answer, 422, "validation-failed")
        assert [error["location"] for error in problem["errors"]] == ["query:cursor"]


@pytest.mark.parametrize("text", ["inf:x", "-inf:x", "nan:x", "1e999:x"])
def test_a_cursor_of_no_time_is_refused(client: Client, text: str) -> None:
    for path in ("images", "jobs"):
        answer = client.get(f"/v1/{path}", query_string={"cursor": tampered(text)})
        assert_problem(answer, 422, "validation-failed")


@pytest.mark.parametrize("text", ["-1:0", "0:-1", "0:x", "0", "1.5:0"])
def test_a_cursor_of_no_outcome_is_refused(client: Client, text: str) -> None:
    path = f"/v1/jobs/{submit(client)}/items"
    answer = client.get(path, query_string={"cursor": tampered(text)})
    assert_problem(answer, 422, "validation-failed")


def test_a_cursor_behind_the_last_outcome_gives_nothing(client: Client, worker: StandIn) -> None:
    job_id = submit(client)
    worker.finish_chunk(job_id, 0, [Item(name="", image_id=None, outcome="skipped")])
    for text in ("0:1", "1:0", "999999999999:0"):
        query = {"cursor": tampered(text)}
        answer = client.get(f"/v1/jobs/{job_id}/items", query_string=query)
        assert answer.json == {"items": [], "next_cursor": None}
