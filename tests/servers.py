"""Real servers for tests: on free ports of 127.0.0.1, stopped by whoever started them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from twinlens.cli import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from twinlens.cli.supervisor import Service


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(predicate: Callable[[], bool], deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while not predicate():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def running_valkey(folder: Path) -> Iterator[str]:
    port = free_port()
    with _running(parts.valkey(folder / "valkey", port)):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def running_milvus(folder: Path) -> Iterator[str]:
    port = free_port()
    with _running(parts.milvus(folder / "milvus", port)):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _running(service: Service) -> Iterator[None]:
    with subprocess.Popen(
        service.command, env=dict(service.env), stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(service.is_ready, service.start_s)
            yield
        finally:
            process.terminate()
