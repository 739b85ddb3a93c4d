"""Memory that a piece of work may take: an allocation too many fails, and not the process."""

from __future__ import annotations

import os
import resource
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATM, _STATM_BYTES = "/proc/self/statm", 256
_DATA_PAGES = 5  # the place of what is private and can be written, as RLIMIT_DATA counts it


class MemoryLimit:
    """Bounds what the process allocates beyond what it has as a piece of work begins.

    Only while it lasts, since other work of the process may need more; and only on Linux, where
    the limit covers all that is allocated. Addresses (RLIMIT_AS) would be no measure: libraries
    reserve gigabytes that they never use.
    """

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._lock = threading.Lock()
        self._n_running = 0
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_DATA)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the limit; several threads have it together, once for each.

        Raises:
            MemoryError: An allocation failed, and whoever made it has no other word for it.
        """
        if sys.platform != "linux":
            yield
            return
        with self._lock:
            self._n_running += 1
            self._set(_data_bytes() + self._n_running * self._n_bytes)
        try:
            yield
        finally:
            with self._lock:
                self._n_running -= 1
                if self._n_running == 0:
                    self._set(self._soft)

    def _set(self, n_bytes: int) -> None:
        known = [limit for limit in (n_bytes, self._soft) if limit != resource.RLIM_INFINITY]
        soft = min(known, default=resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, self._hard))


def _data_bytes() -> int:
    # Read without a buffer, in 7 us: each picture waits for it.
    descriptor = os.open(_STATM, os.O_RDONLY)
    try:
        n_pages = os.read(descriptor, _STATM_BYTES).split()[_DATA_PAGES]
    finally:
        os.close(descriptor)
    return int(n_pages) * resource.getpagesize()
