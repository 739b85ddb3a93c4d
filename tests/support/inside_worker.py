"""What a worker's process does with its messages, in the test's own process.

The messages are real, and so are Celery's request and tracer: a task is acknowledged, tried again
or failed as in a worker, at the moment that the test says.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
from typing import TYPE_CHECKING, Any

import kombu
from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import Reject
from celery.worker.request import Request
from support.records import make_library

from twinlens.shared.libraries import new_library
from twinlens.shared.queue import celery_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import pytest
    from celery import Celery

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings
    from twinlens.workers.process.runtime import Runtime


class _ThisProcess(BasePool):
    """A pool of one process: this one. What became of a task is told as to the worker's parent."""

    def apply_async(self, target: Any, args: Any = (), *_: Any, **options: Any) -> None:
        options["callback"](target(*args))


class WorkerProcess:
    """A worker's process that does one message at a time."""

    def __init__(self, app: ModuleType, connection: kombu.Connection) -> None:
        self.celery: Celery = app.celery_app
        self.runtime: Runtime = app.runtime()
        self.channel: Any = connection.channel()

    def take(self, queue: str) -> Any:
        """Takes the next message of a queue, and holds it, as a worker's parent process does."""
        message = kombu.Queue(queue, channel=self.channel).get()
        assert message is not None, f"nothing is queued in {queue}"
        return message

    def request(self, message: Any) -> Request:
        """Returns what the worker's parent process makes of a message."""
        return Request(
            message,
            app=self.celery,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
        )

    def run_next(self, queue: str) -> None:
        """Does the task of the next message, whenever it is to be done."""
        message = self.take(queue)
        request = self.request(message)
        try:
            request.execute_using_pool(_ThisProcess())
        except SystemExit:
            # The parent process sees that one that worked on it is gone.
            message.requeue()
        except Reject:
            # It is the parent process that is told.
            request.on_failure(ExceptionInfo())

    def run_all(self, queue: str, n_most: int = 100) -> None:
        """Does what is queued, and what is queued by it."""
        for _ in range(n_most):
            if not self.runtime.redis.llen(queue):
                return
            self.run_next(queue)
        raise AssertionError(f"there is no end of tasks in {queue}")

    def lose(self, queue: str) -> None:
        """Takes the next message, and does nothing for it."""
        self.take(queue).ack()

    def queued(self, queue: str) -> list[str]:
        """Returns the ids of the tasks that wait in a queue, the next one first."""
        texts: list[Any] = self.runtime.redis.lrange(queue, 0, -1)
        return [json.loads(text)["headers"]["id"] for text in reversed(texts)]


def serve_only(redis: Redis, *models: str) -> None:
    """Makes the default library one of these models, by name@version, before any worker does."""
    make_library(redis, new_library("default", models))


def _forget_backend(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the app, and each of its tasks, take the result backend that is set by now."""
    monkeypatch.setattr(app, "_backend_cache", None)
    monkeypatch.setattr(app, "_local", threading.local())
    for task in app.tasks.values():
        monkeypatch.setattr(task, "__trace__", None)


@contextlib.contextmanager
def worker_process(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    """Becomes a worker's process, as it is once it has started."""
    app = importlib.import_module("twinlens.workers.process.app")
    importlib.import_module("twinlens.workers.tasks")
    # Its own settings were read as it was imported, by whichever test was the first to do so.
    broker = celery_url(settings.redis_url)
    backend = f"{app.BACKEND}+{broker.removeprefix('redis+')}"
    app.celery_app.conf.update(broker_url=broker, result_backend=backend)
    _forget_backend(app.celery_app, monkeypatch)
    # A pool's process looks for its app there, where other tests leave theirs.
    app.celery_app.set_current()
    # As prefork says it of its processes: so they do not subscribe to results.
    monkeypatch.setattr("celery._state._task_join_will_block", True)
    monkeypatch.setattr(app, "settings", settings)
    caches = (app.runtime, app.redis_of_parent)
    for cache in caches:
        cache.cache_clear()
    with app.celery_app.connection_for_read() as connection:
        process = WorkerProcess(app, connection)
        try:
            yield process
        finally:
            process.runtime.redis.close()
            process.runtime.sent_pictures.close()
            app.celery_app.backend.client.connection_pool.disconnect()
            app.redis_of_parent().close()
            for cache in caches:
                cache.cache_clear()
