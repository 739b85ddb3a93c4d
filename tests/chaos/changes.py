"""Steps that search, describe and delete images, and that change libraries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from chaos.good_client import NotAnswered
from chaos.pictures import id_of, picture
from chaos.plan import MODELS
from chaos.speaker import code_of

if TYPE_CHECKING:
    import httpx
    from chaos.plan import Step
    from chaos.speaker import Speaker

N_SEARCHES = 10


def search(speaker: Speaker, step: Step) -> str:
    """Searches until a search succeeds: one that was lost is its caller's to repeat."""
    number = step.pictures[0]
    for _ in range(N_SEARCHES):
        answer, _ = speaker.ask("POST", "/v1/search", {200, 202, 404}, **_query(speaker, step))
        if answer.status_code == 404:
            return _not_there(speaker, number)
        job = speaker.client.ended(answer.json()["id"])
        speaker.ledger.jobs[job["id"]] = "search"
        if job["status"] == "succeeded":
            return _check_hits(speaker, number, job["result"])
        if code_of(job) == "image-not-found":
            return _not_there(speaker, number)
        assert code_of(job) in ("unavailable", "crashed"), job
    raise NotAnswered(f"{N_SEARCHES} searches failed: {job}")


def _query(speaker: Speaker, step: Step) -> dict[str, Any]:
    number = step.pictures[0]
    query = {"library": speaker.library, "k": 5, "include_query": True}
    if step.way == "id":
        return {"json": query | {"image_id": id_of(speaker.seed, number)}}
    file = ("query.png", picture(speaker.seed, number))
    return {"files": {"file": file, "query": (None, json.dumps(query))}}


def _check_hits(speaker: Speaker, number: int, result: dict[str, Any]) -> str:
    if speaker.ledger.there.get(number):
        for model, ranking in result["by_model"].items():
            first = ranking[0]["image_id"] if ranking else "none"
            assert first == id_of(speaker.seed, number), (model, number, ranking)
    return "finds itself"


def _not_there(speaker: Speaker, number: int) -> str:
    assert speaker.ledger.there.get(number) is not True, f"picture {number} is lost"
    return "not there"


def describe(speaker: Speaker, step: Step) -> str:
    [number] = step.pictures
    metadata = {"mark": step.value}
    answer, _ = speaker.ask(
        "PATCH", speaker.path_of(number), {200, 404}, json={"metadata": metadata}
    )
    if answer.status_code == 404:
        return _not_there(speaker, number)
    assert answer.json()["metadata"] == metadata, answer.text
    if speaker.is_owner:
        speaker.ledger.metadata[number] = metadata
    return "described"


def delete(speaker: Speaker, step: Step) -> str:
    [number] = step.pictures
    answer, is_repeated = speaker.ask("DELETE", speaker.path_of(number), {200, 202, 404})
    if answer.status_code == 404:
        # Unless the answer to the first was lost.
        assert is_repeated or _not_there(speaker, number), answer.text
        said = "not there"
    else:
        said = answer.json()["id"]
        speaker.ended(said)
    _note_gone(speaker, step)
    return said


def delete_many(speaker: Speaker, step: Step) -> str:
    if step.way == "ids":
        wanted: dict[str, Any] = {"ids": [id_of(speaker.seed, n) for n in step.pictures]}
    else:
        wanted = {"filter": " or ".join(f'name == "{n}.png"' for n in step.pictures)}
    job = speaker.post("/v1/images/delete", json=wanted)
    outcomes = [item["outcome"] for item in speaker.ended(job["id"])]
    assert "failed" not in outcomes, outcomes
    _note_gone(speaker, step)
    return f"{job['id']} {outcomes}"


def _note_gone(speaker: Speaker, step: Step) -> None:
    if speaker.is_owner:
        speaker.ledger.remove(step.pictures)
    else:
        speaker.ledger.forget(step.pictures)


# Libraries.


def change(speaker: Speaker, step: Step) -> str:
    answer = _put(speaker, speaker.library, step)
    if answer.status_code != 202:
        return str(answer.status_code)
    job_id: str = answer.json()["id"]
    speaker.ended(job_id)
    return job_id


def give_up(speaker: Speaker, step: Step) -> str:
    answer = _put(speaker, speaker.library, step)
    if answer.status_code != 202:
        return str(answer.status_code)
    job_id: str = answer.json()["id"]
    answer, _ = speaker.ask("POST", f"/v1/jobs/{job_id}/cancel", {200, 409})
    speaker.ended(job_id, "cancelled" if answer.status_code == 200 else "succeeded")
    return f"{job_id} {answer.status_code}"


def roll_back(speaker: Speaker, step: Step) -> str:
    path = f"/v1/libraries/{speaker.library}/rollback"
    answer, _ = speaker.ask("POST", path, {200, 409})
    return str(answer.status_code)


def remove(speaker: Speaker, step: Step) -> str:
    """Makes a library, and removes it while pictures arrive."""
    name = f"aside-{speaker.key}"
    _put(speaker, name, step)
    files = [("files", one) for one in speaker.files(step).items()]
    speaker.post(f"/v1/images/bulk?library={name}", files=files)
    answer, is_repeated = speaker.ask("DELETE", f"/v1/libraries/{name}", {200, 202, 404})
    if answer.status_code == 404:
        assert is_repeated, answer.text
        return "not there"
    job_id: str = answer.json()["id"]
    speaker.ended(job_id)
    return job_id


def _put(speaker: Speaker, name: str, step: Step) -> httpx.Response:
    plan: dict[str, Any] = {"models": MODELS[step.value % len(MODELS)]}
    if step.value % 2:
        plan |= {"metric": ("L2", "IP", "COSINE")[step.value % 3], "index": {"type": "FLAT"}}
    answer, _ = speaker.ask("PUT", f"/v1/libraries/{name}", {200, 201, 202}, json=plan)
    return answer
