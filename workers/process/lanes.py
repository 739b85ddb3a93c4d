"""Proves that a worker takes tasks: a process that had none for a while queues a probe.

It goes the way of every task, from Redis to whichever process of the lane is free. Where something
waits in the queue already, that is the probe.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import uuid
from typing import TYPE_CHECKING

from twinlens.shared.queue import LANES, PROBE, TaskMessage, publish
from twinlens.shared.redis.presence import BEAT_S, PROBE_S, PROOF_S, SILENCE_S
from twinlens.workers.process.heartbeat import Rounds
from twinlens.workers.watch import end_process

if TYPE_CHECKING:
    from celery import Celery

    from twinlens.workers.process.runtime import Runtime

log = logging.getLogger(__name__)

# Where a process is free for so long, while something waits in its queues all the time, its parent
# takes nothing any more.
MAX_WAIT_S = 60.0


class LaneProbes(Rounds):
    """Queues probes, and ends a worker that takes no tasks though Redis is there."""

    def __init__(self, runtime: Runtime, app: Celery) -> None:
        super().__init__("probe", BEAT_S)
        self._runtime = runtime
        self._app = app
        self._parent_pid = os.getppid()
        self._sent_at = -PROBE_S
        self._n_waits = 0

    def go_round(self) -> None:
        n_waits, self._n_waits = self._n_waits, 0
        if self._runtime.health.task_left_s is not None:
            return
        if not self._is_something_waiting():
            if self._is_due():
                self._queue_probes()
        elif self._can_write():
            self._n_waits = n_waits + 1
            if self._n_waits * BEAT_S > MAX_WAIT_S:
                self._end_worker()

    def _is_something_waiting(self) -> bool:
        queues = [queue for lane in self._runtime.lanes for queue in LANES[lane]]
        return any(self._runtime.redis.llen(queue) for queue in queues)

    def _can_write(self) -> bool:
        """Tells if Redis takes what is written, as it must for a task to be taken."""
        return time.monotonic() - self._runtime.health.told_at < SILENCE_S

    def _is_due(self) -> bool:
        idle_s, moment = self._runtime.health.idle_s, time.monotonic()
        return (idle_s is None or idle_s >= PROBE_S) and moment - self._sent_at >= PROBE_S

    def _queue_probes(self) -> None:
        self._sent_at = time.monotonic()
        for lane in self._runtime.lanes:
            task = TaskMessage(PROBE, {}, uuid.uuid4().hex, LANES[lane][0])
            publish(self._app, task, "-", ignore_result=True, expires=PROOF_S)

    def _end_worker(self) -> None:
        log.critical("worker %d takes no tasks, and is ended", self._parent_pid)
        if os.getppid() == self._parent_pid:
            os.kill(self._parent_pid, signal.SIGKILL)
        end_process("its worker takes no tasks")
