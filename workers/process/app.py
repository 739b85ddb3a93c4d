"""The Celery app of the workers: lanes, and what a process does as it starts."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from billiard.process import current_process
from celery import signals
from redis import RedisError

from twinlens.models.cores import n_cores
from twinlens.models.session import is_cpu
from twinlens.shared import log
from twinlens.shared.errors import TwinlensError
from twinlens.shared.messages import Lane
from twinlens.shared.queue import EMBED_CHUNK, LANES, PROBE, make_celery
from twinlens.shared.redis.client import WORKER_RETRIES, connect
from twinlens.shared.settings import Settings
from twinlens.workers.process.heartbeat import Heartbeat, Sweeps, WebhookLane
from twinlens.workers.process.lanes import LaneProbes
from twinlens.workers.process.lease import LeaseRenewal
from twinlens.workers.process.pulse import Pulse, PulseWatch
from twinlens.workers.process.runtime import Runtime, build_runtime
from twinlens.workers.process.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.redis.client import Redis

# Bulk work gives way to searches on the same cores: a search waited 11 ms (p99) under full load.
BULK_NICENESS = 10
logger = logging.getLogger(__name__)

LANES_VARIABLE = "TWINLENS_WORKER_LANES"
BACKEND = "twinlens.workers.process.backend:JobBackend"

settings = Settings()
celery_app = make_celery(settings, BACKEND)
celery_app.steps["consumer"].update({LeaseRenewal, PulseWatch})
celery_app.conf.imports = ("twinlens.workers.tasks",)


@functools.cache
def runtime() -> Runtime:
    """Returns what this process holds; loads models and connects on the first call.

    Sessions and gRPC clients do not survive a fork, so the parent must never call this.
    """
    lanes: Any = os.environ.get(LANES_VARIABLE, "bulk").split(",")
    return build_runtime(settings, lanes)


@functools.cache
def redis_of_parent() -> Redis:
    """Returns the parent's Redis client, to report tasks that their process could not end.

    The parent ends tasks that run too long, and must not call `runtime`.
    """
    return connect(settings.redis_url, n_retries=WORKER_RETRIES)


def run_worker(lanes: Sequence[Lane], n_processes: int | None) -> None:
    """Runs a Celery worker until it is told to stop, once Redis answers.

    SIGTERM stops it once its tasks are done, or after a grace time; then its tasks go back into
    the queue.

    Args:
        lanes: `search`, `bulk` or both; with both, a search may wait for a chunk.
        n_processes: Processes, each with its own models. By default one per core for `bulk`, one
            on a GPU, and one for `search`, whose models run in parallel.
    """
    os.environ[LANES_VARIABLE] = ",".join(lanes)
    if "search" not in lanes:
        os.nice(BULK_NICENESS)
    if n_processes is None:
        is_one_a_core = "bulk" in lanes and is_cpu(settings.execution_providers)
        n_processes = n_cores() if is_one_a_core else 1
    queues = [queue for lane in lanes for queue in LANES[lane]]
    log.configure_logging(settings.log_level)
    # Here, where a signal ends it: Celery's shutdown waits for processes that wait.
    with connect(settings.redis_url) as redis:
        wait_for(redis)
    celery_app.worker_main(
        [
            "worker",
            f"--queues={','.join(queues)}",
            f"--hostname={'-'.join(lanes)}-{os.getpid()}@%h",
            "--pool=prefork",
            f"--concurrency={n_processes}",
            f"--loglevel={settings.log_level}",
            "--optimization=fair",
            "--without-gossip",
            "--without-mingle",
        ]
    )


@signals.worker_shutting_down.connect
def _bound_shutdown(how: str, **_: Any) -> None:
    """After the grace time, a warm shutdown, which waits for its tasks, becomes a cold one."""
    if how == "Warm":
        timer = threading.Timer(settings.worker_grace_s, os.kill, (os.getpid(), signal.SIGQUIT))
        timer.daemon = True
        timer.start()


@signals.setup_logging.connect
def _leave_logging(**_: Any) -> None:
    """Celery sets up logging of its own, unless someone listens here."""


@signals.worker_process_init.connect
def _start_process(**_: Any) -> None:
    held = None
    try:
        held = runtime()
        held.watch.start()
        held.warm_up()
    except Exception:
        # A process without its models would take tasks only to fail them. The worker stops, and
        # hands back what it holds; whoever started it sees that, and the reason.
        logger.critical("the worker cannot start", exc_info=True)
        if held is not None:
            # Without the model that it refused, which is named for it.
            with contextlib.suppress(TwinlensError, RedisError):
                held.publish()
        os.kill(os.getppid(), signal.SIGQUIT)
        os._exit(os.EX_CONFIG)
    own: Any = current_process()
    Pulse(own.index).start()
    Heartbeat(held).start()
    LaneProbes(held, celery_app).start()
    Sweeps(held, celery_app).start()
    for origin in held.webhooks.origins:
        WebhookLane(held, origin).start()


@signals.task_prerun.connect
def _begin_task(task: Any, kwargs: dict[str, Any], **_: Any) -> None:
    log.request_id.set(getattr(task.request, "request_id", None) or "-")
    task.request.began_at = time.monotonic()
    runtime().health.begin_task(task.time_limit or celery_app.conf.task_time_limit)
    # Kombu says so of a message that a worker held and lost, or handed back.
    if task.request.delivery_info.get("redelivered") and "job_id" in kwargs:
        with contextlib.suppress(RedisError):
            jobs = runtime().jobs
            if (job := jobs.find(kwargs["job_id"])) is not None:
                jobs.count_rescue(job.kind)


@signals.task_postrun.connect
def _end_task(task: Any, **_: Any) -> None:
    counts = runtime().counts
    if task.name != PROBE:
        counts.n_tasks += 1
    if task.name == EMBED_CHUNK:
        counts.busy_s += time.monotonic() - task.request.began_at
    runtime().health.end_task()
