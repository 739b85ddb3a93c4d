"""The peers' servers, each started with its own Python and stopped in the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import benchmarks
import twinlens
from benchmarks.peers.load import Target, post_all
from benchmarks.peers.model import MODELS_VARIABLE, PORT_VARIABLE, PROCESSES_VARIABLE
from benchmarks.setup import N_CORES, Setup
from twinlens.cli.service.addresses import pick_port

PATHS = {"mosec": "/inference", "litserve": "/predict"}
START_S = 60.0
STOP_S = 20.0
N_VECTOR_BYTES = 1280 * 4


@contextlib.contextmanager
def run_server(name: str, python: Path, setup: Setup, warm: list[bytes]) -> Iterator[Target]:
    """Starts a peer with a process a core, has it embed some pictures, and yields where it is."""
    port, log = pick_port(), setup.work / f"{name}.log"
    url = f"http://127.0.0.1:{port}{PATHS[name]}"
    target = Target(url, lambda body: len(body) == N_VECTOR_BYTES)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-m", f"benchmarks.peers.{name}_server"],
            env=_environment(setup.models, port),
            cwd=setup.work,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, target, warm, log)
        yield target
    finally:
        _stop(process)


def _environment(models_dir: Path, port: int) -> dict[str, str]:
    roots = [Path(str(package.__file__)).parents[1] for package in (twinlens, benchmarks)]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, roots)),
        "OMP_NUM_THREADS": "1",
        MODELS_VARIABLE: str(models_dir),
        PORT_VARIABLE: str(port),
        PROCESSES_VARIABLE: str(N_CORES),
        "MOSEC_ADDRESS": "127.0.0.1",
        "MOSEC_PORT": str(port),
        "MOSEC_TIMEOUT": "60000",
        "MOSEC_LOG_LEVEL": "warning",
    }


def _wait_until_ready(
    process: subprocess.Popen[bytes], target: Target, warm: list[bytes], log: Path
) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            post_all(target, warm, N_CORES)
            return
        time.sleep(0.2)
    raise SystemExit(f"{target.url} did not come up: {log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the server to end, then ends what is left of its session."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
