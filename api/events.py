"""A job's events, as a stream that can be resumed without loss (server-sent events).

An event's id is its entry in the job's stream in Redis, and for a failed picture its place among
the entry's failures: `1700000000000-0.2`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from twinlens.shared.job_answers import progress_of
from twinlens.shared.redis.jobs import ENDED, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import BaseModel

    from twinlens.api.job_views import JobViews

# A proxy, and a client, take a silent connection for a dead one.
COMMENT_S = 15.0
# The shorter, the sooner a stream notices that its client is gone; it must be less than
# CALLER_TIMEOUT_S.
BLOCK_S = 1.0
# Entries read at once. A client that comes late is told the progress once for this many chunks.
BATCH = 100
RETRY_MS = 2000


class Place(NamedTuple):
    """Where a client is: after an entry, or after some of its failures."""

    entry: str = "0-0"
    n_failures: int | None = None  # None: after all of it


def place_of(last_event_id: str | None) -> Place:
    """Reads a Last-Event-ID, which has the form of one."""
    if not last_event_id:
        return Place()
    entry, _, n_failures = last_event_id.partition(".")
    return Place(entry, int(n_failures) if n_failures else None)


def has_more(views: JobViews, job_id: str, place: Place) -> bool:
    """Returns whether a client has not yet seen the job's end.

    Raises:
        JobNotFound: There is no such job.
        JobExpired: It has expired.
    """
    if not views.jobs.get(job_id).has_ended or place.n_failures is not None:
        return True
    return bool(views.jobs.read_events(job_id, place.entry, count=1, block_s=0.001))


def stream_events(
    views: JobViews, job_id: str, place: Place, is_wanted: Callable[[], bool]
) -> Iterator[str]:
    """Yields a job's events after a place, as they happen, until it has ended, or is not wanted."""
    yield f"retry: {RETRY_MS}\n\n"
    if place.n_failures is not None:
        begun = views.jobs.read_event(job_id, place.entry)
        if begun is not None:
            yield from _failures(views, job_id, begun, place.n_failures)
            yield from _summary(views, job_id, begun)
            if begun.status in ENDED:
                return
    last, comment_at = place.entry, time.monotonic() + COMMENT_S
    while is_wanted():
        events = views.jobs.read_events(job_id, last, count=BATCH, block_s=BLOCK_S)
        for event in events:
            yield from _failures(views, job_id, event, 0)
        if events:
            last, comment_at = events[-1].id, time.monotonic() + COMMENT_S
            yield from _summary(views, job_id, events[-1])
            if events[-1].status in ENDED:
                return
        elif time.monotonic() >= comment_at:
            if views.jobs.get(job_id).has_ended:  # its last event was lost with Redis
                return
            comment_at = time.monotonic() + COMMENT_S
            yield ": still here\n\n"


def _failures(views: JobViews, job_id: str, event: Event, n_seen: int) -> Iterator[str]:
    if not event.n_failed:
        return
    [items] = views.outcomes(job_id, [event.chunk])
    failed = [item for item in items if item.outcome == "failed"]
    for number, item in enumerate(failed[n_seen:], start=n_seen + 1):
        yield _told("item_failed", f"{event.id}.{number}", item)


def _summary(views: JobViews, job_id: str, event: Event) -> Iterator[str]:
    """Reports how far the job is now, which may be further than at the event."""
    job = views.jobs.get(job_id)
    if event.status in ENDED:
        yield _told("done", event.id, views.answer(job))
    else:
        yield _told("progress", event.id, progress_of(job))


def _told(name: str, event_id: str, content: BaseModel) -> str:
    return f"id: {event_id}\nevent: {name}\ndata: {content.model_dump_json()}\n\n"
