"""Each process of a worker shows its parent that it runs, and the parent ends one that does not.

Celery gives a process that hangs the next task, and waits for it: its time limit counts from the
moment at which the process takes it. What is shown goes through memory that both share, so that it
depends on nothing else; and it is counted, so that a machine that was asleep ends nobody.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
from typing import Any

from celery import bootsteps

from twinlens.workers.process.heartbeat import Rounds

log = logging.getLogger(__name__)

PULSE_S = 1.0
LOOK_S = 2.0
# Nothing that is in order keeps a process from running Python for so long.
MAX_STILL = int(30 / LOOK_S)
# More processes than a worker has.
N_PLACES = 65_536

# By the place of a process in its pool: its id, and how often its heart has beaten.
_places = memoryview(mmap.mmap(-1, N_PLACES * 16)).cast("Q")


class Pulse(Rounds):
    """Shows that this process runs."""

    def __init__(self, place: int) -> None:
        super().__init__("pulse", PULSE_S)
        self._first = 2 * place

    def go_round(self) -> None:
        _places[self._first] = os.getpid()
        _places[self._first + 1] += 1


class PulseWatch(bootsteps.StartStopStep):
    """In the parent, ends processes that have begun and stand still."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._still: dict[int, tuple[int, int]] = {}  # by process id: its beats, and looks since

    def start(self, consumer: Any) -> None:
        self._timer = consumer.timer.call_repeatedly(LOOK_S, self._look, (consumer.pool,))

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        self._timer.cancel()

    def _look(self, pool: Any) -> None:
        before, self._still = self._still, {}
        for process in pool._pool._pool:  # noqa: SLF001 (celery has no public name for them)
            pid, beats = _places[2 * process.index : 2 * process.index + 2]
            if pid != process.pid:
                continue  # it has not begun
            beats_before, n_looks = before.get(pid, (beats, 0))
            self._still[pid] = beats, n_looks + 1 if beats == beats_before else 0
            if self._still[pid][1] > MAX_STILL:
                log.critical("process %d stands still, and is ended", pid)
                os.kill(pid, signal.SIGKILL)
