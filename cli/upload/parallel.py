"""Runs any number of tasks, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def run_parallel(tasks: Iterable[Callable[[], Result]], n_threads: int) -> Iterator[Result]:
    """Runs tasks on threads, and gives their results as they come.

    Tasks are taken as they are needed: at most two per thread are held.

    Args:
        tasks: Functions of no arguments.
        n_threads: How many run at the same time.

    Raises:
        Exception: What the first task that failed raised. The rest is not started.
    """
    waiting: SimpleQueue[Callable[[], Result] | None] = SimpleQueue()
    ended: SimpleQueue[tuple[Result] | Exception] = SimpleQueue()
    for _ in range(n_threads):
        # Daemons: after a Ctrl-C nobody waits for the upload of a large batch.
        Thread(target=_work, args=(waiting, ended), name="run_parallel", daemon=True).start()
    n_held = 0
    try:
        for task in tasks:
            waiting.put(task)
            n_held += 1
            if n_held == 2 * n_threads:
                yield _result(ended.get())
                n_held -= 1
        for _ in range(n_held):
            yield _result(ended.get())
    finally:
        while not waiting.empty():
            waiting.get()
        for _ in range(n_threads):
            waiting.put(None)


def _work(
    waiting: SimpleQueue[Callable[[], Result] | None],
    ended: SimpleQueue[tuple[Result] | Exception],
) -> None:
    while (task := waiting.get()) is not None:
        try:
            ended.put((task(),))
        except Exception as error:  # noqa: BLE001 (raised again where the results are read)
            ended.put(error)


def _result(ended: tuple[Result] | Exception) -> Result:
    if isinstance(ended, Exception):
        raise ended
    return ended[0]
