"""Plain pictures that are uploaded, and what became of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from support.servers import wait_until
from support.tiny_pair import COLOURS, plain_picture

from twinlens.shared.blobs import image_id_of

if TYPE_CHECKING:
    from support.inside_worker import WorkerProcess
    from support.requests import Client

PICTURES = {f"{colour}.png": plain_picture(colour) for colour in COLOURS}
IDS = [image_id_of(content) for content in PICTURES.values()]


def upload(client: Client, library: str = "default", **terms: str) -> str:
    """Posts the plain pictures as one bulk job, one chunk. Returns its id."""
    files = [(io.BytesIO(content), name) for name, content in PICTURES.items()]
    query = {"library": library, **terms}
    answer = client.post("/v1/images/bulk", query_string=query, data={"files": files})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json["id"]
    return job_id


def upload_one(client: Client, name: str = "red.png") -> str:
    """Posts one picture as a job of its own. Returns its id."""
    answer = client.post("/v1/images", data=PICTURES[name], content_type="image/png")
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json["id"]
    return job_id


def job_of(client: Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json
    return job


def ending(client: Client, job_id: str) -> tuple[str, str | None]:
    """Returns a job's status, and the code of its error."""
    job = job_of(client, job_id)
    return job["status"], job["error"] and job["error"]["type"].rpartition(":")[2]


def outcomes(client: Client, job_id: str) -> list[str]:
    items = client.get(f"/v1/jobs/{job_id}/items").json["items"]
    return [item["outcome"] for item in items]


def codes(client: Client, job_id: str) -> list[str | None]:
    """Returns the code of what went wrong with each picture."""
    items = client.get(f"/v1/jobs/{job_id}/items").json["items"]
    return [one["error"] and one["error"]["type"].rpartition(":")[2] for one in items]


def go_on(process: WorkerProcess, queue: str, job_id: str) -> None:
    """Tries until the job has ended: the client needs a moment to see that Milvus is back."""

    def has_ended() -> bool:
        process.run_next(queue)
        return process.runtime.jobs.get(job_id).has_ended

    wait_until(has_ended, 60)
