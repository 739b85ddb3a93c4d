"""Ends this process where a piece of work in it hangs: whoever runs it starts another."""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

# How long a group of pictures may take, in time limits of one. A picture comes alone as soon as its
# chunk has ended a process, so what hangs is found without waiting for the chunk's limit.
GROUP_TIME_LIMITS = 4
LOOK_S = 1.0
_STANDARD_ERROR = 2


def end_process(why: str) -> NoReturn:
    """Ends this process at once, and says why and where its threads were.

    Its task goes back into the queue.
    """
    log.critical("this process ends itself: %s", why)
    faulthandler.dump_traceback(_STANDARD_ERROR)
    os._exit(os.EX_SOFTWARE)


class Watch(threading.Thread):
    """Looks every second at what runs, and ends the process where something takes too long.

    It counts its own looks and no clock: what stood still as a whole, stopped or starved, is not
    late. It needs the interpreter's lock, which onnxruntime gives up while it computes.
    """

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        self._n_looks = 0
        self._running: dict[object, tuple[int, str]] = {}  # with the look that is one too many

    @contextmanager
    def within(self, limit_s: float, what: str) -> Iterator[None]:
        """Ends the process if what is inside takes longer.

        Args:
            limit_s: How long it may take.
            what: It, for the log: "model x@1".
        """
        key = object()
        self._running[key] = self._n_looks + 1 + math.ceil(limit_s / LOOK_S), what
        try:
            yield
        finally:
            del self._running[key]

    def run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            self._n_looks += 1
            for last_look, what in list(self._running.values()):
                if self._n_looks > last_look:
                    end_process(f"{what} hangs")
