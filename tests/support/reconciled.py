"""A library's stores are compared, and what the job says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client


def reconcile(client: Client, process: WorkerProcess, **asked: Any) -> list[dict[str, Any]]:
    """Reconciles libraries, and returns the jobs as they have ended."""
    answer = client.post("/v1/reconcile", json=asked)
    assert answer.status_code == 202, answer.text
    for queue in ("single", "bulk"):
        process.run_all(queue)
    return [client.get(job["links"]["self"]).json for job in answer.json["items"]]


def differences(job: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Returns of each kind how many differ, are repaired and are queued."""
    assert job["result"] is not None, job
    told = job["result"]["differences"]
    return {kind: (one["count"], one["repaired"], one["queued"]) for kind, one in told.items()}


def check(client: Client, process: WorkerProcess) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Returns what differs, by library, of those where something does."""
    jobs = reconcile(client, process, check=True)
    told = {job["library"]: differences(job) for job in jobs}
    return {name: some for name, some in told.items() if some}
