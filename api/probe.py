"""Whether other servers answer: one connection, to notice at once that a part is down.

The API has no Milvus client, and needs none to know that nothing listens at its address.
"""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

Probed = TypeVar("Probed")

# Whoever monitors the service is answered within a second.
SHARED_TIMEOUT_S = 0.8
# A server on the same network accepts within milliseconds; a caller should not wait for more.
PROBE_TIMEOUT_S = 0.5
MILVUS_PORT = 19530
HTTPS_PORT = 443


def address_of(uri: str) -> tuple[str, int]:
    """Returns host and port of a Milvus URI.

    >>> address_of("http://milvus:19531")
    ('milvus', 19531)
    >>> address_of("https://cluster.example")
    ('cluster.example', 443)
    >>> address_of("localhost")
    ('localhost', 19530)
    """
    parts = urlsplit(uri if "//" in uri else f"//{uri}")
    default = HTTPS_PORT if parts.scheme == "https" else MILVUS_PORT
    return parts.hostname or "", parts.port or default


def is_listening(uri: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Returns whether the host and port of a URI, or its Unix socket, accept a connection."""
    parts = urlsplit(uri)
    try:
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(timeout_s)
                connection.connect(parts.path)
        else:
            socket.create_connection(address_of(uri), timeout=timeout_s).close()
    except OSError:
        return False
    return True


class SharedProbe:
    """Runs a probe in a thread of its own, one at a time; whoever asks meanwhile shares it."""

    def __init__(self) -> None:
        """Begins. A thread is started with the first probe."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._lock = threading.Lock()
        self._running: Future[object] | None = None
        self._until = 0.0

    def run(self, probe: Callable[[], Probed]) -> Probed:
        """Returns what the probe says, or that which runs already.

        Raises:
            TimeoutError: It has not ended in time, and goes on.
        """
        with self._lock:
            if self._running is None or self._running.done():
                self._running = self._thread.submit(probe)
                self._until = time.monotonic() + SHARED_TIMEOUT_S
            running, left_s = self._running, self._until - time.monotonic()
        answer: Probed = running.result(max(0.0, left_s))  # type: ignore[assignment]
        return answer
