"""Kills and stops parts of a running service, as the plan says."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.ledger import Steps
    from chaos.plan import Strike
    from chaos.scene import Scene


class Striker(threading.Thread):
    """Strikes while the load runs.

    Attributes:
        told: What was done.
    """

    def __init__(self, scene: Scene, strikes: Sequence[Strike], steps: Steps) -> None:
        super().__init__(name="striker", daemon=True)
        self._scene, self._strikes, self._steps = scene, strikes, steps
        self._wakers: list[threading.Timer] = []
        self.told: list[str] = []

    def run(self) -> None:
        for strike in self._strikes:
            self._steps.wait_for(strike.at_step)
            time.sleep(strike.after_s)
            self.told.append(f"{strike}: {self._strike(strike)}")
        for waker in self._wakers:
            waker.join()

    def _strike(self, strike: Strike) -> str:
        process = self._scene.process(strike.part, is_child=strike.is_child)
        if process is None:
            return "was not there"
        with contextlib.suppress(ProcessLookupError):
            if not strike.stop_s:
                os.kill(process.pid, signal.SIGKILL)
                return f"killed {process.pid}"
            os.kill(process.pid, signal.SIGSTOP)
            waker = threading.Timer(strike.stop_s, _wake, (process,))
            waker.start()
            self._wakers.append(waker)
            return f"stopped {process.pid}"
        return "was gone"


def _wake(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()
