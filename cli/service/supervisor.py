"""Runs processes in order, starts again what dies, and stops them in the opposite order.

docs/decisions/0002-supervisor.md tells why this is ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from twinlens.cli.errors import CommandFailed
from twinlens.cli.service.guard import Guard, kill_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

TICK_S = 0.05
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
# Whoever lived this long died of something new: the backoff begins again.
SETTLED_S = 30.0
# A part that dies this often before it was ready once will not come up by itself.
MAX_DEATHS_AT_START = 5
MAX_LOG_BYTES = 10 * 1024 * 1024
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Service:
    """A process to be kept running."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    is_ready: Callable[[], bool] = field(default=lambda: True)
    start_s: float = 30.0  # limit until it is ready
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 5.0  # from the signal until it is killed


class Child:
    """A service's process, and when it may be started next."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.n_deaths = 0
        self._started_at = 0.0
        self._start_after = 0.0
        self._backoff_s = FIRST_BACKOFF_S

    @property
    def is_due(self) -> bool:
        return self.process is None and time.monotonic() >= self._start_after

    def start(self, output: BinaryIO) -> None:
        """Starts the process in a session of its own, so that a Ctrl-C reaches only us.

        Args:
            output: Gets what it writes.

        Raises:
            OSError: The system has no room for it.
        """
        self._started_at = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603 (the commands are ours)
            self.service.command,
            env=dict(self.service.env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def signal_stop(self) -> None:
        """Asks the process itself, which knows what to do with its own children."""
        if self.process is not None:
            self.process.send_signal(self.service.stop_signal)

    def reap(self) -> int | None:
        """Returns the status of a process that has ended, once; nothing of its group is left."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        kill_group(self.process.pid)
        self.process = None
        return status

    def kill(self) -> None:
        """Kills the process with its group."""
        if self.process is not None:
            kill_group(self.process.pid)
            self.process.wait()
            self.process = None

    def back_off(self) -> float:
        """Puts off the next start.

        Returns:
            For how many seconds.
        """
        self.n_deaths += 1
        if time.monotonic() - self._started_at >= SETTLED_S:
            self._backoff_s = FIRST_BACKOFF_S
        wait_s = self._backoff_s
        self._start_after = time.monotonic() + wait_s
        self._backoff_s = min(2 * wait_s, MAX_BACKOFF_S)
        return wait_s


class Supervisor:
    """Keeps services running until a signal asks it to stop."""

    def __init__(
        self,
        steps: Sequence[Sequence[Service]],
        log_dir: Path,
        say: Callable[[str], None],
        on_change: Callable[[dict[str, int]], None],
    ) -> None:
        """Names what is to run. Nothing is started yet.

        Args:
            steps: Services in the order of their start; those of a step start together, and the
                next step waits until they are ready. They stop in the opposite order.
            log_dir: Gets each service's output, as NAME.log.
            say: Called with a line about each start, end and failure.
            on_change: Called with the pids by name whenever one changes; again, if that failed
                with an OSError.
        """
        self._steps = [
            [Child(service, log_dir / f"{service.name}.log") for service in step] for step in steps
        ]
        self._say = say
        self._on_change = on_change
        self._is_untold = False
        self._is_stopping = False
        self._is_impatient = False

    def run(self, lock_fd: int, on_ready: Callable[[], None]) -> None:
        """Starts everything, and stops it again when a signal comes. For the main thread.

        Args:
            lock_fd: Held by the guard until nothing is left, even if this process is killed.
            on_ready: Called once, when all services are ready.

        Raises:
            CommandFailed: A service did not come up.
        """
        self._guard = Guard(lock_fd)
        try:
            with self._signals():
                self._run(on_ready)
        finally:
            self._guard.close()

    def _run(self, on_ready: Callable[[], None]) -> None:
        try:
            for step in self._steps:
                self._start(step)
            if not self._is_stopping:
                on_ready()
            while not self._is_stopping:
                self._tend()
        finally:
            for step in reversed(self._steps):
                self._stop(step)

    def _start(self, step: list[Child]) -> None:
        """Starts services, and returns when they are ready or a signal asks to stop."""
        began = time.monotonic()
        for child in step:
            self._spawn(child)
        waiting = list(step)
        while waiting and not self._is_stopping:
            self._tend()
            for child in [child for child in waiting if child.service.is_ready()]:
                waiting.remove(child)
            for child in waiting:
                _check_start(child, time.monotonic() - began)

    def _tend(self) -> None:
        """Looks once after everything that was started."""
        time.sleep(TICK_S)
        self._guard.check()
        if self._is_untold:
            self._tell_pids()
        for child in self._children():
            _rotate(child.log)
            status = child.reap()
            if status is not None:
                wait_s = child.back_off()
                self._say(f"{child.service.name} {_describe_exit(status)}; again in {wait_s:g} s")
                self._tell_pids()
            elif child.n_deaths and child.is_due:
                self._spawn(child)

    def _spawn(self, child: Child) -> None:
        if self._is_stopping:
            return
        try:
            with self._open_log(child) as log:
                child.start(log)
        except OSError as error:
            why, wait_s = error.strerror, child.back_off()
            self._say(f"{child.service.name} cannot be started: {why}; again in {wait_s:g} s")
            return
        self._tell_pids()
        assert child.process is not None
        self._say(f"{child.service.name} started (pid {child.process.pid})")

    def _open_log(self, child: Child) -> BinaryIO:
        _rotate(child.log)
        try:
            return child.log.open("ab")
        except OSError as error:
            self._say(f"{child.service.name} has no log: {child.log}: {error.strerror}")
            return Path(os.devnull).open("ab")

    def _stop(self, step: list[Child]) -> None:
        """Asks services to end, and kills those that take too long; after a second Ctrl-C, all."""
        for child in step:
            child.signal_stop()
        began = time.monotonic()
        while any(child.process for child in step):
            time.sleep(TICK_S)
            for child in step:
                is_late = time.monotonic() - began > child.service.grace_s
                if child.reap() is None and (is_late or self._is_impatient):
                    child.kill()
        self._tell_pids()

    def _children(self) -> Iterator[Child]:
        return (child for step in self._steps for child in step)

    def _tell_pids(self) -> None:
        pids = {
            child.service.name: child.process.pid for child in self._children() if child.process
        }
        self._guard.watch(pids.values())
        try:
            self._on_change(pids)
        except OSError as error:
            if not self._is_untold:
                self._say(f"which processes run cannot be noted yet: {error.strerror}")
            self._is_untold = True
        else:
            self._is_untold = False

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, _: FrameType | None) -> None:
            if self._is_stopping:
                self._is_impatient = self._is_impatient or number == signal.SIGINT
            else:
                self._is_stopping = True
                self._say("stopping; Ctrl-C again kills what is left")

        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _check_start(child: Child, after_s: float) -> None:
    """Gives up on a service that does not come up.

    Raises:
        CommandFailed: It was not ready in time, or died too often.
    """
    service = child.service
    if child.n_deaths >= MAX_DEATHS_AT_START:
        raise CommandFailed(f"{service.name} ends as soon as it is started; see {child.log}")
    if after_s > service.start_s:
        raise CommandFailed(
            f"{service.name} is not ready after {service.start_s:g} s; see {child.log.parent}"
        )


def _describe_exit(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _rotate(log: Path) -> None:
    """Copies a long log to NAME.log.1 and empties it; who writes it goes on at its beginning.

    What is written between the two is lost, and where the disk has no room, all of it.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size <= MAX_LOG_BYTES:
            return
        older = log.with_suffix(".log.1")
        try:
            shutil.copyfile(log, older)
        except OSError:
            older.unlink(missing_ok=True)
        os.truncate(log, 0)
