"""Those who wait for work to be done: how many may, and whether they are still there."""

from __future__ import annotations

import contextlib
import select
import threading
from typing import TYPE_CHECKING

from flask import has_request_context, request

from twinlens.api.access.checks import watch_grant
from twinlens.shared.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Each holds a thread of the server (cli/service/http_worker.py); others need some too.
MAX_WAITERS = 32
MAX_STREAMS = 16
RETRY_AFTER_S = 1

# Its client has closed; what it sent before that may not be read yet.
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Places:
    """So many places, each for one that waits."""

    def __init__(self, n_places: int, what: str) -> None:
        """Begins, with all of them free.

        Args:
            n_places: How many there are.
            what: Of whoever is sent away, e.g. "streams of events are open; poll instead".
        """
        self._free = threading.BoundedSemaphore(n_places)
        self._refusal = f"{n_places} {what}."

    def take(self) -> threading.BoundedSemaphore:
        """Takes a place; the caller releases it.

        Raises:
            QueueFull: All are taken.
        """
        if not self._free.acquire(blocking=False):
            raise QueueFull(self._refusal, retry_after_s=RETRY_AFTER_S)
        return self._free

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Takes a place for a while.

        Raises:
            QueueFull: All are taken.
        """
        place = self.take()
        try:
            yield
        finally:
            place.release()


def watch_client() -> Callable[[], bool]:
    """Returns what tells if this request's client still waits, as far as is known, and may."""
    if not has_request_context():
        return lambda: True
    client, is_still_granted = request.environ.get("gunicorn.socket"), watch_grant()
    if client is None:
        return is_still_granted

    def is_there() -> bool:
        if not is_still_granted():
            return False
        poll = select.poll()
        poll.register(client.fileno(), _GONE)
        return not poll.poll(0)

    return is_there
