"""Answers: JSON, pages, and jobs with their links, entity tags and waiting."""

from __future__ import annotations

import contextlib
import math
import re
from typing import TYPE_CHECKING, TypeVar

from flask import Response, request
from pydantic import BaseModel
from werkzeug.exceptions import PreconditionFailed

from twinlens.shared.errors import FieldError, QueueFull, ValidationFailed, place
from twinlens.shared.job_answers import job_links
from twinlens.shared.messages import Cursor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.api.accepting.submission import Accepted
    from twinlens.api.job_views import JobViews
    from twinlens.shared.redis.jobs import Job

MAX_WAIT_S = 60
# When a client that did not ask to wait should look again.
POLL_AFTER_S = 1

Named = TypeVar("Named")


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
        RFC 7240: names in any case, values quoted or not; the first of a name counts, and what is
        not understood is ignored.
    """
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            seconds = value.strip().strip('"')
            return min(int(seconds), MAX_WAIT_S) if re.fullmatch("[0-9]{1,9}", seconds) else None
    return None


def answer_accepted(views: JobViews, accepted: Accepted, prefer: str | None) -> Response:
    """Answers a request that created a job: 202, or 200 if the job has ended by now."""
    job, wait_s = accepted.job, wait_of(prefer)
    if wait_s is not None and not job.has_ended:
        # It is accepted already: if nobody else may wait, that alone is the answer.
        with contextlib.suppress(QueueFull):
            job = views.wait(job.id, wait_s)
    response = answer(views.answer(job), 200 if job.has_ended else 202)
    response.headers["Location"] = job_links(job.id)["self"]
    if not job.has_ended:
        response.headers["Retry-After"] = str(POLL_AFTER_S)
    return _told_preference(response, job, wait_s)


def answer_job(views: JobViews, job_id: str, prefer: str | None) -> Response:
    """Answers a poll: 304 if the job has not changed since the caller's last poll."""
    wait_s = wait_of(prefer)
    job = views.jobs.get(job_id) if wait_s is None else views.wait(job_id, wait_s)
    tag = str(job.revision)
    response = Response(status=304) if is_known(tag) else answer(views.answer(job))
    response.set_etag(tag)
    response.cache_control.private = True
    response.cache_control.no_cache = True
    return _told_preference(response, job, wait_s)


def is_known(tag: str) -> bool:
    """Returns whether the client has this version already, so that 304 is the answer.

    Raises:
        PreconditionFailed: It wants another version.

    Source:
        RFC 9110, 13.2.2. Nothing has a date of change here, so that conditions on it are ignored.
    """
    wanted = request.if_match
    if "If-Match" in request.headers and not (wanted.star_tag or wanted.is_strong(tag)):
        raise PreconditionFailed
    return request.if_none_match.contains_weak(tag)


def read_cursor(text: str | None) -> Cursor | None:
    """Reads the cursor of a list that is ordered by time.

    Raises:
        ValidationFailed: It is not one that we gave out.
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
    """Returns the error for a cursor that we never gave out."""
    message = "Use a `next_cursor` of this list."
    return ValidationFailed(
        "The cursor is not valid.", [FieldError(location=place("query", "cursor"), message=message)]
    )


def page_by_name(
    named: Sequence[tuple[str, Named]], limit: int, cursor: str | None
) -> tuple[list[Named], str | None]:
    """Returns a page of a short list that is ordered by name, and the cursor of the next page."""
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
