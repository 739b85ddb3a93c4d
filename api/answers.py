"""Answers: JSON, pages, and jobs with their links, entity tags and waiting."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote

from flask import Response, request
from pydantic import BaseModel

from twinlens.shared.answers import JobAnswer, Progress
from twinlens.shared.errors import FieldError, ValidationFailed
from twinlens.shared.messages import Cursor, Duplicates, Image, Moment, SearchResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.api.accepting.gateway import Gateway
    from twinlens.api.accepting.intake import Accepted
    from twinlens.shared.redis.jobs import Job

MAX_WAIT_S = 60
# When a client that did not ask to wait should look again.
POLL_AFTER_S = 1

Named = TypeVar("Named")
Result = TypeVar("Result", bound=BaseModel)


def answer(model: BaseModel, status: int = 200) -> Response:
    """Returns a JSON answer."""
    return Response(model.model_dump_json(), status, mimetype="application/json")


def wait_of(prefer: str | None) -> int | None:
    """Returns the seconds of `wait=` in a Prefer header; at most 60, None where there are none.

    >>> wait_of('respond-async, wait="10"; x=y')
    10
    >>> wait_of("wait=soon") is None
    True

    Source:
        RFC 7240: names in any case, values quoted or not, the first of a name counts, what is
        not understood is ignored.
    """
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            seconds = value.strip().strip('"')
            return min(int(seconds), MAX_WAIT_S) if re.fullmatch("[0-9]{1,9}", seconds) else None
    return None


def answer_accepted(gateway: Gateway, accepted: Accepted, prefer: str | None) -> Response:
    """Answers a request that made a job: 202, or 200 if the job has ended by now."""
    job, wait_s = accepted.job, wait_of(prefer)
    if wait_s is not None and not job.has_ended:
        job = gateway.jobs.wait(job.id, wait_s)
    response = answer(job_answer(gateway, job), 200 if job.has_ended else 202)
    response.headers["Location"] = job_links(job.id)["self"]
    if not job.has_ended:
        response.headers["Retry-After"] = str(POLL_AFTER_S)
    return _told_preference(response, job, wait_s)


def answer_job(gateway: Gateway, job_id: str, prefer: str | None) -> Response:
    """Answers a poll: 304 where the caller has the job as it is."""
    wait_s = wait_of(prefer)
    job = gateway.jobs.get(job_id) if wait_s is None else gateway.jobs.wait(job_id, wait_s)
    tag = str(job.revision)
    if request.if_none_match.contains_weak(tag):
        response = Response(status=304)
    else:
        response = answer(job_answer(gateway, job))
    response.set_etag(tag)
    response.cache_control.private = True
    response.cache_control.no_cache = True
    return _told_preference(response, job, wait_s)


def job_answer(gateway: Gateway, job: Job, *, with_result: bool = True) -> JobAnswer:
    """Returns a job as clients see it."""
    return JobAnswer(
        **job.model_dump(include=_COPIED),
        progress=progress_of(job),
        result=_result_of(gateway, job) if with_result else None,
        error=job.error,
        links=job_links(job.id),
    )


_COPIED = {
    "id",
    "kind",
    "library",
    "status",
    "created_at",
    "started_at",
    "finished_at",
    "expires_at",
}


def progress_of(job: Job) -> Progress:
    """Returns a job's progress. One that is not counted in pictures is one whole."""
    if job.kind not in ("embed", "bulk", "reindex"):
        return Progress(
            total=1,
            received=1,
            succeeded=int(job.status == "succeeded"),
            skipped=0,
            failed=int(job.status == "failed"),
        )
    rate = job.pictures_per_s
    return Progress(
        total=job.total,
        received=job.received,
        succeeded=job.succeeded,
        skipped=job.skipped,
        failed=job.failed,
        pictures_per_s=rate and round(rate, 2),
        eta=_eta_of(job, rate),
    )


def _eta_of(job: Job, rate: float | None) -> Moment | None:
    """Goes by what the record says alone: an entity tag stands for one answer."""
    if job.total is None or job.counted_at is None or job.has_ended or not rate:
        return None
    return job.counted_at + timedelta(seconds=(job.total - job.n_counted) / rate)


def job_links(job_id: str) -> dict[str, str]:
    """Returns where a job and its outcomes are."""
    path = f"/v1/jobs/{job_id}"
    return {"self": path, "items": f"{path}/items", "events": f"{path}/events"}


def with_links(image: Image) -> Image:
    """Returns an image that says where it, its bytes and its thumbnail are."""
    path = f"/v1/images/{image.id}"
    query = "" if image.library == "default" else f"?library={quote(image.library, safe='')}"
    links = {
        "self": path + query,
        "content": f"{path}/content{query}",
        "thumbnail": f"{path}/thumbnail{query}",
    }
    return image.model_copy(update={"links": links})


def read_cursor(text: str | None) -> Cursor | None:
    """Reads the cursor of a list that is ordered by time.

    Raises:
        ValidationFailed: We never gave it out.
    """
    if text is None:
        return None
    try:
        cursor = Cursor.decode(text)
    except ValueError:
        raise bad_cursor() from None
    if not math.isfinite(cursor.score):
        raise bad_cursor()
    return cursor


def bad_cursor() -> ValidationFailed:
    """Returns the error of a cursor that we never gave out."""
    message = "It is not a `next_cursor` of this list."
    return ValidationFailed(
        "The cursor is not valid.", [FieldError(location="cursor", message=message)]
    )


def page_by_name(
    named: Sequence[tuple[str, Named]], limit: int, cursor: str | None
) -> tuple[list[Named], str | None]:
    """Returns a page of a short list that is ordered by name, and the cursor of the next."""
    after = read_cursor(cursor)
    rest = [pair for pair in named if after is None or pair[0] > after.member]
    page = [one for _, one in rest[:limit]]
    if len(rest) <= limit:
        return page, None
    return page, Cursor(score=0, member=rest[limit - 1][0]).encode()


def _told_preference(response: Response, job: Job, wait_s: int | None) -> Response:
    response.vary.add("Prefer")
    if wait_s is not None and job.has_ended:
        response.headers["Preference-Applied"] = f"wait={wait_s}"
    return response


def _result_of(gateway: Gateway, job: Job) -> SearchResult | Duplicates | Image | None:
    if job.status != "succeeded":
        return None
    if job.kind == "search":
        return _found(job)
    if job.kind == "duplicates":
        return _duplicates(job)
    if job.kind == "embed":
        return _embedded(gateway, job)
    return None


class _Stored(BaseModel, Generic[Result]):
    """What Celery's result backend has of a job of one task."""

    result: Result


def _duplicates(job: Job) -> Duplicates | None:
    if job.result is None:
        return None
    return _Stored[Duplicates].model_validate_json(job.result).result


def _found(job: Job) -> SearchResult | None:
    if job.result is None:
        return None
    found = _Stored[SearchResult].model_validate_json(job.result).result
    for hit in found.hits:
        hit.image = with_links(hit.image)
    return found


def _embedded(gateway: Gateway, job: Job) -> Image | None:
    [items] = gateway.chunk_items(job.id, [0])
    if not items or items[0].image_id is None:
        return None
    image_id = items[0].image_id
    # It may have been removed since.
    entry = gateway.catalog.find(job.library, [image_id]).get(image_id)
    return None if entry is None else with_links(entry.image)
