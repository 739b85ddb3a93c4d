"""Each worker process reports that it is alive, looks for work that was lost, and tells of ends.

Each in a thread of its own: a sweep may take minutes, a process that is silent for seconds passes
for dead, and a host that is told of the end of jobs may not answer.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError
from redis import RedisError

from twinlens.shared.errors import Unavailable
from twinlens.shared.messages import OK, WorkerStatus
from twinlens.shared.redis.presence import BEAT_S, announce
from twinlens.workers.process.sweeper import SWEEP_S

if TYPE_CHECKING:
    from celery import Celery

    from twinlens.shared.origins import Origin
    from twinlens.workers.process.runtime import Runtime

log = logging.getLogger(__name__)

RATE_WINDOW_S = 60.0
# How long a webhook waits at most that nothing else holds up.
WEBHOOK_PAUSE_S = 1.0
# Beats in a row without an answer, until a new client of Milvus is tried; and again, as often.
UNANSWERED = 3


class Rounds(threading.Thread):
    """A daemon thread that does something again and again, whatever goes wrong in one round."""

    def __init__(self, name: str, pause_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self._pause_s = pause_s

    def run(self) -> None:
        while True:
            try:
                self.go_round()
            except (RedisError, OperationalError) as error:
                log.warning("no %s: %s", self.name, error)
            except Exception:
                log.exception("the %s failed", self.name)
            time.sleep(self._pause_s)

    @abstractmethod
    def go_round(self) -> None:
        """Does it once."""


class Sweeps(Rounds):
    """Tells the catalogue what it must know, and sweeps where no other process does."""

    def __init__(self, runtime: Runtime, app: Celery) -> None:
        super().__init__("sweep", SWEEP_S)
        self._runtime = runtime
        self._app = app

    def go_round(self) -> None:
        self._runtime.publish()
        self._runtime.sweeper.sweep(self._app)


class WebhookLane(Rounds):
    """Tells one host of the ends of jobs, one after the other: others have threads of their own."""

    def __init__(self, runtime: Runtime, origin: Origin) -> None:
        super().__init__(f"webhooks to {origin}", WEBHOOK_PAUSE_S)
        self._runtime = runtime
        self._origin = origin

    def go_round(self) -> None:
        while self._runtime.webhooks.deliver_next(self._origin):
            pass


class Heartbeat(Rounds):
    """Beats while the process is alive and Redis can be reached."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__("heartbeat", BEAT_S)
        self._runtime = runtime
        self._history = deque([(time.monotonic(), 0, 0)])
        self._n_unanswered = 0

    def go_round(self) -> None:
        self._ping_milvus()
        announce(self._runtime.redis, self._status())
        self._runtime.health.told_at = time.monotonic()

    def _ping_milvus(self) -> None:
        health = self._runtime.health
        try:
            self._runtime.vectors.ping(timeout_s=BEAT_S)
        except Unavailable as error:
            health.milvus = error.detail
            self._n_unanswered += 1
            if self._n_unanswered % UNANSWERED == 0:
                # Not here, where it would hold up the next beat.
                threading.Thread(target=self._renew_client, name="milvus", daemon=True).start()
        else:
            health.milvus, self._n_unanswered = OK, 0

    def _renew_client(self) -> None:
        with contextlib.suppress(Unavailable):
            self._runtime.vectors.renew_client(BEAT_S)

    def _status(self) -> WorkerStatus:
        counts, health = self._runtime.counts, self._runtime.health
        pictures_per_s, tasks_per_s = self._rates()
        return WorkerStatus(
            name=self._runtime.name,
            lanes=list(self._runtime.lanes),
            beat_at=time.time(),
            milvus=health.milvus,
            probe=health.probe,
            idle_s=health.idle_s,
            task_left_s=health.task_left_s,
            n_pictures=counts.n_pictures,
            pictures_per_s=round(pictures_per_s, 2),
            tasks_per_s=round(tasks_per_s, 2),
            busy_s=round(counts.busy_s, 2),
        )

    def _rates(self) -> tuple[float, float]:
        """Returns pictures and tasks a second, over the last minute."""
        moment = time.monotonic()
        n_pictures, n_tasks = self._runtime.counts.n_pictures, self._runtime.counts.n_tasks
        self._history.append((moment, n_pictures, n_tasks))
        while moment - self._history[0][0] > RATE_WINDOW_S:
            self._history.popleft()
        since, pictures_then, tasks_then = self._history[0]
        took_s = max(moment - since, BEAT_S)
        return (n_pictures - pictures_then) / took_s, (n_tasks - tasks_then) / took_s
