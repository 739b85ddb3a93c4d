"""Steps that upload: in every form, broken off, cancelled, retried."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
from chaos.pictures import id_of, picture, tar_of, zip_of
from chaos.speaker import code_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.plan import Step
    from chaos.speaker import Speaker

BULK = "/v1/images/bulk"


def upload(speaker: Speaker, step: Step) -> str:
    job = speaker.post(BULK, **_body(speaker, step.way, speaker.files(step)))
    return _note_uploaded(speaker, step, job["id"])


def add(speaker: Speaker, step: Step) -> str:
    [(name, content)] = speaker.files(step).items()
    if step.way == "raw":
        headers = {"Content-Type": "image/png"}
        params = {"name": name}
        job = speaker.post("/v1/images", content=content, headers=headers, params=params)
    else:
        job = speaker.post("/v1/images", files={"file": (name, content)})
    return _note_uploaded(speaker, step, job["id"])


def break_off(speaker: Speaker, step: Step) -> str:
    whole = _body(speaker, step.way, speaker.files(step))
    request = httpx.Request("POST", "http://127.0.0.1", **whole)
    body = request.read()
    headers = {"Content-Type": request.headers["Content-Type"]}
    speaker.ledger.forget(step.pictures)
    n_bytes = step.value % len(body)
    speaker.client.break_off(f"{BULK}?library={speaker.library}", body, headers, n_bytes)
    return f"after {n_bytes} bytes"


def cancel(speaker: Speaker, step: Step) -> str:
    """Cancels an upload at once, and removes what it has embedded: nothing of it may come back."""
    speaker.ledger.forget(step.pictures)
    job = speaker.post(BULK, **_body(speaker, step.way, speaker.files(step)))
    answer, _ = speaker.ask("POST", f"/v1/jobs/{job['id']}/cancel", {200, 409})
    if answer.status_code == 409:
        return _note_uploaded(speaker, step, job["id"])
    speaker.ledger.jobs[job["id"]] = "cancelled"
    ids = [id_of(speaker.seed, number) for number in step.pictures]
    removal = speaker.post("/v1/images/delete", json={"ids": ids})
    speaker.ended(removal["id"])
    speaker.ledger.there |= dict.fromkeys(step.pictures, False)
    return f"{job['id']} is cancelled, then {removal['id']}"


def retry(speaker: Speaker, step: Step) -> str:
    damaged = {"damaged.png": picture(speaker.seed, step.pictures[0])[:60]}
    job = speaker.post(BULK, **_body(speaker, step.way, speaker.files(step) | damaged))
    _note_uploaded(speaker, step, job["id"], n_damaged=1)
    again = speaker.post(f"/v1/jobs/{job['id']}/retry")
    outcomes = {item["name"]: item["outcome"] for item in speaker.ended(again["id"], "failed")}
    assert outcomes["damaged.png"] == "failed", outcomes
    return f"{job['id']}, then {again['id']}"


def _body(speaker: Speaker, way: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Returns an upload as httpx takes it."""
    if way == "zip":
        return {"content": zip_of(files), "headers": {"Content-Type": "application/zip"}}
    if way == "tar":
        return {"content": tar_of(files), "headers": {"Content-Type": "application/x-tar"}}
    if way == "listing":
        lines = "\n".join(_lines(speaker, files))
        return {"content": lines, "headers": {"Content-Type": "application/x-ndjson"}}
    return {"files": [("files", (name, content)) for name, content in files.items()]}


def _lines(speaker: Speaker, files: dict[str, bytes]) -> Iterator[str]:
    for name, content in files.items():
        path = speaker.listed / f"{speaker.key}-{name}"
        path.write_bytes(content)
        yield json.dumps({"uri": path.as_uri(), "name": name})


def _note_uploaded(speaker: Speaker, step: Step, job_id: str, n_damaged: int = 0) -> str:
    """Waits for an upload, and notes which of its pictures must be there."""
    if not speaker.is_owner:
        speaker.ledger.forget(step.pictures)
    items = speaker.ended(job_id)
    assert len(items) == len(step.pictures) + n_damaged, items
    by_name = {item["name"]: item for item in items}
    for number in step.pictures:
        item = by_name[f"{number}.png"]
        if item["outcome"] == "failed":
            assert speaker.may_fail_as(code_of(item)), item
            speaker.ledger.forget([number])
        elif speaker.is_owner:
            speaker.ledger.there[number] = True
    return job_id
