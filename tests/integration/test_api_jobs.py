from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from integration.conftest import assert_problem, image

from twinlens.shared.messages import Item

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from integration.conftest import StandIn


def submit(client: FlaskClient, content: bytes = b"picture") -> str:
    response = client.post("/v1/images", data=content, content_type="image/png")
    assert response.status_code == 202
    return str(response.json["id"])


def test_a_job_has_the_fields_of_the_contract(client: FlaskClient) -> None:
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
        "result",
        "error",
        "links",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job["created_at"])
    age = datetime.now(UTC) - datetime.fromisoformat(job["created_at"])
    assert abs(age.total_seconds()) < 60
    assert job["started_at"] is job["finished_at"] is job["expires_at"] is None


def test_a_poll_answers_304_until_something_changes(client: FlaskClient, worker: StandIn) -> None:
    path = f"/v1/jobs/{submit(client)}"
    tag = client.get(path).headers["ETag"]
    same = client.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.data, same.headers["ETag"]) == (304, b"", tag)
    assert same.headers["Vary"] == "Prefer"

    worker.jobs.start(path.rpartition("/")[2])
    changed = client.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json["status"]) == (200, "running")
    assert changed.headers["ETag"] != tag


def test_a_wait_ends_with_the_job(client: FlaskClient, worker: StandIn) -> None:
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


def test_a_wait_in_vain_answers_200_all_the_same(client: FlaskClient) -> None:
    response = client.get(f"/v1/jobs/{submit(client)}", headers={"Prefer": "wait=1"})
    assert (response.status_code, response.json["status"]) == (200, "queued")
    assert "Preference-Applied" not in response.headers


@pytest.mark.parametrize("prefer", ["wait=soon", "wait=-1", "wait", ";;,=,", "return=minimal"])
def test_garbage_in_prefer_is_ignored(client: FlaskClient, prefer: str) -> None:
    assert client.get(f"/v1/jobs/{submit(client)}", headers={"Prefer": prefer}).status_code == 200


def test_unknown_jobs_are_not_found(client: FlaskClient) -> None:
    for path in ("nope", "nope/items", "%00"):
        assert_problem(client.get(f"/v1/jobs/{path}"), 404, "job-not-found")


def test_an_expired_job_is_gone(client: FlaskClient, worker: StandIn) -> None:
    job_id = submit(client)
    worker.jobs.finish(job_id)
    worker.redis.hset(f"tl:job:{job_id}", "expires_at", "1.0")
    assert_problem(client.get(f"/v1/jobs/{job_id}"), 410, "job-expired")
    assert_problem(client.get(f"/v1/jobs/{job_id}/items"), 410, "job-expired")


def test_jobs_are_listed_newest_first_and_filtered(client: FlaskClient, worker: StandIn) -> None:
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


def listed(client: FlaskClient, **query: Any) -> list[str]:
    found: list[str] = []
    while True:
        page = client.get("/v1/jobs", query_string=query).json
        found += [job["id"] for job in page["items"]]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


@pytest.mark.parametrize("query", [{"kind": "x"}, {"status": "x"}, {"sort": "x"}, {"limit": -1}])
def test_bad_list_parameters_are_refused(client: FlaskClient, query: dict[str, Any]) -> None:
    problem = assert_problem(client.get("/v1/jobs", query_string=query), 422, "validation-failed")
    assert [error["location"] for error in problem["errors"]] == list(query)
