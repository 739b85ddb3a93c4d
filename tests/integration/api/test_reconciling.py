"""Comparisons of libraries are jobs, one for each library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.requests import assert_problem

if TYPE_CHECKING:
    from support.requests import Client
    from support.stand_in import StandIn


def ask(client: Client, key: str = "", **asked: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/reconcile", json=asked, headers=headers)


@pytest.fixture
def worker(worker: StandIn) -> StandIn:
    worker.serve("phash")
    worker.serve("phash", library="art")
    return worker


def test_each_library_has_a_job_of_its_own(client: Client, worker: StandIn) -> None:
    answer = ask(client)
    assert answer.status_code == 202
    jobs = answer.json["items"]
    assert [(job["kind"], job["library"], job["status"]) for job in jobs] == [
        ("reconcile", "art", "queued"),
        ("reconcile", "default", "queued"),
    ]
    assert [task["id"] for task in worker.queued()] == [job["id"] for job in jobs]
    listed = client.get("/v1/jobs?kind=reconcile").json["items"]
    assert {job["id"] for job in listed} == {job["id"] for job in jobs}


@pytest.mark.usefixtures("worker")
def test_one_library_may_be_named(client: Client) -> None:
    [job] = ask(client, library="art", check=True).json["items"]
    assert job["library"] == "art"
    assert_problem(ask(client, library="none"), 404, "library-not-found")
    assert_problem(ask(client, shelf="art"), 422, "validation-failed")


@pytest.mark.usefixtures("worker")
def test_a_request_that_is_repeated_with_its_key_has_the_same_jobs(client: Client) -> None:
    first, second = (ask(client, key="k").json["items"] for _ in range(2))
    assert [job["id"] for job in first] == [job["id"] for job in second]
    assert_problem(ask(client, key="k", check=True), 422, "idempotency-conflict")
    assert len(client.get("/v1/jobs?kind=reconcile").json["items"]) == 2
