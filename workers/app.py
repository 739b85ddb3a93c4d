"""The Celery app of the workers: lanes, and what a process does as it starts."""

from __future__ import annotations

import functools
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from celery import signals

from twinlens.shared import log
from twinlens.shared.queue import LANES, REDIS_RETRIES, Lane, connect, make_celery
from twinlens.shared.settings import Settings
from twinlens.workers.heartbeat import Heartbeat
from twinlens.workers.lease import LeaseRenewal
from twinlens.workers.runtime import Runtime, build_runtime

if TYPE_CHECKING:
    from redis import Redis

# Bulk work gives way to searches on the same cores: a search waited 11 ms (p99) under full load.
BULK_NICENESS = 10
logger = logging.getLogger(__name__)

LANE_VARIABLE = "TWINLENS_WORKER_LANE"

settings = Settings()
celery_app = make_celery(settings, with_results=True)
celery_app.steps["consumer"].add(LeaseRenewal)
celery_app.conf.imports = ("twinlens.workers.tasks",)


@functools.cache
def runtime() -> Runtime:
    """Returns what this process holds; loads models and connects on the first call.

    Sessions and gRPC clients do not survive a fork, so the parent must never call this.
    """
    lane: Any = os.environ.get(LANE_VARIABLE, "bulk")
    return build_runtime(settings, lane)


@functools.cache
def redis_of_parent() -> Redis:
    """Returns a Redis client for what is told of tasks that end without their process.

    The parent ends what runs too long, and must not call `runtime`.
    """
    return connect(settings.redis_url, n_retries=REDIS_RETRIES)


def run_worker(lane: Lane, n_processes: int) -> None:
    """Runs a Celery worker of one lane until it is told to stop.

    Args:
        lane: `search` or `bulk`.
        n_processes: Processes, each with its own models; one a core is best.
    """
    os.environ[LANE_VARIABLE] = lane
    if lane == "bulk":
        os.nice(BULK_NICENESS)
    celery_app.worker_main(
        [
            "worker",
            f"--queues={','.join(LANES[lane])}",
            f"--hostname={lane}-{os.getpid()}@%h",
            "--pool=prefork",
            f"--concurrency={n_processes}",
            f"--loglevel={settings.log_level}",
            "--optimization=fair",
            "--without-gossip",
            "--without-mingle",
        ]
    )


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    log.configure_logging(settings.log_level)


@signals.worker_process_init.connect
def _start_process(**_: Any) -> None:
    try:
        held = runtime()
        held.warm_up()
    except Exception:
        # A process without its models would take tasks only to fail them. The worker stops, and
        # hands back what it holds; whoever started it sees that, and the reason.
        logger.critical("the worker cannot start", exc_info=True)
        os.kill(os.getppid(), signal.SIGQUIT)
        os._exit(os.EX_CONFIG)
    Heartbeat(held, celery_app).start()


@signals.task_prerun.connect
def _name_request(task: Any, **_: Any) -> None:
    log.request_id.set(getattr(task.request, "request_id", None) or "-")
