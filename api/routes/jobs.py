"""Jobs: one, the list, and the outcomes of one, picture by picture."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from twinlens.api.accepting.terms import read_terms
from twinlens.api.access.checks import check_library, needs, sees_library
from twinlens.api.answers import answer, answer_accepted, answer_job, bad_cursor, read_cursor
from twinlens.api.events import has_more, place_of, stream_events
from twinlens.api.routes import DEFAULT_PROBLEM, problems
from twinlens.api.schemas import (
    EventHeaders,
    ItemListParameters,
    JobListParameters,
    JobParameters,
    JobPath,
    NoParameters,
    SubmitHeaders,
    WaitHeaders,
)
from twinlens.api.services import current_services
from twinlens.api.waiting import watch_client
from twinlens.shared.answers import ItemPage, JobAnswer, JobPage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twinlens.api.job_views import JobViews
    from twinlens.shared.messages import Item

# Chunks read at once, and for one page: a filter that few outcomes pass must not read a
# million of them in one request.
READ_CHUNKS = 50
MAX_CHUNKS = 1000

jobs = APIBlueprint(
    "jobs",
    __name__,
    url_prefix="/v1/jobs",
    abp_tags=[{"name": "jobs"}],
    abp_responses=DEFAULT_PROBLEM,
)


@jobs.get(
    "", operation_id="listJobs", security=needs("read"), responses={200: JobPage, **problems(422)}
)
def list_jobs(query: JobListParameters) -> Response:
    """List jobs, newest first.

    A page looks at 1,000 jobs at most. If few of them are wanted it is short, or empty, and
    `next_cursor` goes on.
    """
    services = current_services()
    if query.library is not None:
        check_library(query.library)
    wanted = query.model_dump(include={"library", "kind", "status"}, exclude_none=True)
    after = read_cursor(query.cursor)
    page, cursor = services.jobs.page(query.limit, after, wanted, sees_library)
    items = [services.job_views.answer(job, with_result=False) for job in page]
    return answer(JobPage(items=items, next_cursor=cursor.encode() if cursor else None))


@jobs.get(
    "/<job_id>",
    operation_id="getJob",
    security=needs("read"),
    responses={200: JobAnswer, 304: {"description": "Not changed"}, **problems(404, 410)},
)
def get_job(path: JobPath, query: NoParameters, header: WaitHeaders) -> Response:  # noqa: ARG001 (refuses any)
    """Get a job. Poll cheaply with `If-None-Match`, or wait with `Prefer: wait=S`."""
    return answer_job(current_services().job_views, path.job_id, header.prefer)


@jobs.post(
    "/<job_id>/cancel",
    operation_id="cancelJob",
    security=needs("write"),
    responses={200: JobAnswer, **problems(404, 409, 410)},
)
def cancel_job(path: JobPath, query: NoParameters) -> Response:  # noqa: ARG001 (refuses any)
    """Cancel a job: what of it has not begun never begins, and what is done stays.

    An upload that still arrives is ended. The removal of one image can be cancelled until it
    begins, that of a library cannot. A `reindex` job gives up the edition that it builds.
    """
    services = current_services()
    return answer(services.job_views.answer(services.cancelling.cancel(path.job_id)))


@jobs.post(
    "/<job_id>/retry",
    operation_id="retryJob",
    security=needs("write"),
    responses={200: JobAnswer, 202: JobAnswer, **problems(404, 409, 410, 422, 503)},
)
def retry_job(path: JobPath, query: JobParameters, header: SubmitHeaders) -> Response:
    """Queue the failed pictures of an upload again, as a new job with `links.retry_of`.

    What was stored of them is used; a picture whose bytes are gone fails again, and says so.
    """
    services = current_services()
    services.readiness.check_bulk(0)
    terms = read_terms(services.settings, query, header)
    accepted = services.retrying.retry(path.job_id, terms)
    return answer_accepted(services.job_views, accepted, header.prefer)


@jobs.get(
    "/<job_id>/events",
    operation_id="streamJobEvents",
    security=needs("read"),
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "Nothing more will come"},
        **problems(404, 410, 422, 503),
    },
)
def stream_job_events(path: JobPath, query: NoParameters, header: EventHeaders) -> Response:  # noqa: ARG001 (refuses any)
    """Follow a job: `progress`, `item_failed` and `done`, as server-sent events.

    `Last-Event-ID` continues after an event, without loss.
    """
    services = current_services()
    place = place_of(header.last_event_id)
    if not has_more(services.job_views, path.job_id, place):
        return Response(status=204)  # an EventSource then stops reconnecting
    slot = services.limits.streams.take()
    events = stream_events(services.job_views, path.job_id, place, watch_client())
    response = Response(events, mimetype="text/event-stream")
    response.call_on_close(slot.release)
    response.cache_control.no_store = True
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return response


@jobs.get(
    "/<job_id>/items",
    operation_id="listJobItems",
    security=needs("read"),
    responses={200: ItemPage, **problems(404, 410, 422)},
)
def list_items(path: JobPath, query: ItemListParameters) -> Response:
    """List the outcomes of a job's pictures, in the order of the upload.

    While the job runs, these are the outcomes so far; a page may be short.
    """
    services = current_services()
    job = services.jobs.get(path.job_id)
    start = (0, 0) if query.cursor is None else _decode_place(query.cursor)
    last = min(job.n_chunks, start[0] + MAX_CHUNKS)
    items: list[Item] = []
    for place, item in _items_from(services.job_views, job.id, start, last):
        if len(items) == query.limit:
            return answer(ItemPage(items=items, next_cursor=_encode_place(place)))
        if query.outcome is None or item.outcome == query.outcome:
            items.append(item)
    cursor = _encode_place((last, 0)) if last < job.n_chunks else None
    return answer(ItemPage(items=items, next_cursor=cursor))


# A place is a chunk and an index in it.


def _items_from(
    views: JobViews, job_id: str, start: tuple[int, int], last: int
) -> Iterator[tuple[tuple[int, int], Item]]:
    for first in range(start[0], last, READ_CHUNKS):
        chunks = range(first, min(first + READ_CHUNKS, last))
        for chunk, items in zip(chunks, views.outcomes(job_id, chunks), strict=True):
            for index, item in enumerate(items):
                if (chunk, index) >= start:
                    yield (chunk, index), item


def _encode_place(place: tuple[int, int]) -> str:
    return base64.urlsafe_b64encode(f"{place[0]}:{place[1]}".encode()).decode()


def _decode_place(cursor: str) -> tuple[int, int]:
    try:
        chunk, _, index = base64.urlsafe_b64decode(cursor.encode("ascii")).decode().partition(":")
        place = int(chunk), int(index)
    except ValueError:
        raise bad_cursor() from None
    if min(place) < 0:
        raise bad_cursor()
    return place
