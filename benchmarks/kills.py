"""How long a death is felt: `python -m benchmarks.kills`.

Each part of a service that works at a bulk job is killed, or stopped for 5 s. Told are the seconds
from then until a search that is begun afterwards is answered, until a picture that is posted
afterwards is embedded, and until the bulk job has ended; medians of some rounds. A client repeats
what was not answered. In a first line, nothing is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.photos import Photos
from benchmarks.service import WAIT, Service, serve
from benchmarks.setup import FULL, Setup
from twinlens.models.registry import ensure_models

PARTS = ("api", "worker-search", "worker-bulk", "valkey", "milvus")
MASTERED = ("api", "worker-search", "worker-bulk")
STOP_S = 5.0
N_PHOTOS = 128
STARTED_S = 0.5  # into the bulk job
PAUSE_S = 0.05
GIVE_UP_S = 180.0


class Case(NamedTuple):
    """What is struck: a part, or its child, which works under a master; nothing, where None."""

    part: str | None
    is_child: bool = False
    stop_s: float = 0  # it is killed

    def describe(self) -> str:
        if self.part is None:
            return "nothing"
        how = f"stopped for {self.stop_s:g} s" if self.stop_s else "killed"
        return f"{self.part}{' child' * self.is_child} {how}"


CASES = (
    Case(None),
    *(Case(part) for part in PARTS),
    *(Case(part, is_child=True) for part in MASTERED),
    # A master that stands still is not missed for so long.
    *(Case(part, part in MASTERED, STOP_S) for part in PARTS),
)


class Felt(NamedTuple):
    """Seconds after a death."""

    search_s: float
    picture_s: float
    job_s: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    args = parser.parse_args()
    felt: dict[str, list[Felt]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="twinlens-bench-") as folder:
        models_dir, work = Path(folder, "models"), Path(folder, "work")
        ensure_models(models_dir)
        work.mkdir()
        setup = Setup(work, models_dir, FULL)
        with serve(setup, "--workers", "2") as service:
            watch = _Watch(service, work)
            watch.feel(Case(None))  # sessions are opened
            # Each part rests while others are killed: a supervisor puts off one that dies often.
            for _ in range(args.rounds):
                for case in CASES:
                    felt[case.describe()].append(watch.feel(case))
    _show(felt)


class _Watch:
    def __init__(self, service: Service, work: Path) -> None:
        self._service, self._work, self._photos = service, work, Photos()
        self._query = self._photos.take()

    def feel(self, case: Case) -> Felt:
        """Strikes in the middle of a bulk job, and looks how long that is felt."""
        _wait_until(self._is_ready)
        folder = Path(tempfile.mkdtemp(dir=self._work))
        job = self._service.post_photos(self._photos.write(folder, N_PHOTOS))
        time.sleep(STARTED_S)
        waker = self._strike(case)
        struck = time.monotonic()
        one = self._photos.take()
        path = job["links"]["self"]
        wanted: list[Callable[[httpx.Client], bool]] = [
            lambda client: _has_ended(
                client.post("/v1/search", files={"file": self._query}, headers=WAIT)
            ),
            lambda client: _has_ended(client.post("/v1/images", files={"file": one}, headers=WAIT)),
            lambda client: _has_ended(client.get(path, headers=WAIT)),
        ]
        with ThreadPoolExecutor(len(wanted)) as pool:
            ended = list(pool.map(self._repeat, wanted))
        waker.join()
        return Felt(*(at - struck for at in ended))

    def _strike(self, case: Case) -> threading.Thread:
        waker = threading.Timer(case.stop_s, lambda: None)
        if case.part is not None:
            struck, *_ = self._service.processes(case.part)
            if case.is_child:
                struck = max(struck.children(), key=lambda one: one.pid)
            os.kill(struck.pid, signal.SIGSTOP if case.stop_s else signal.SIGKILL)
            if case.stop_s:
                waker = threading.Timer(case.stop_s, os.kill, (struck.pid, signal.SIGCONT))
        waker.start()
        return waker

    def _repeat(self, ask: Callable[[httpx.Client], bool]) -> float:
        """Asks until it is done, and returns when that was."""
        with httpx.Client(base_url=self._service.client.base_url, timeout=GIVE_UP_S) as client:

            def is_done() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return ask(client)
                return False

            _wait_until(is_done)
        return time.monotonic()

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self._service.client.get("/readyz").is_success
        return False


def _has_ended(answer: httpx.Response) -> bool:
    if not answer.is_success:
        return False
    job: Any = answer.json()
    return bool(job["status"] == "succeeded")


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing for {GIVE_UP_S:g} s")
        time.sleep(PAUSE_S)


def _show(felt: dict[str, list[Felt]]) -> None:
    table = Table("struck", "next search", "next picture", "bulk job", title="Seconds afterwards")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, rounds in felt.items():
        table.add_row(name, *(f"{statistics.median(one):.1f}" for one in zip(*rounds, strict=True)))
    Console().print(table)


if __name__ == "__main__":
    main()
