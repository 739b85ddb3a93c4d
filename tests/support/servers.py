"""Real servers for tests: on free ports of 127.0.0.1, stopped by whoever started them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from redis.exceptions import BusyLoadingError

from twinlens.cli.service import parts, standalone
from twinlens.cli.service.addresses import private_sockets
from twinlens.cli.service.supervisor import Service
from twinlens.shared.redis.client import connect
from twinlens.shared.redis.presence import live_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings


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
def running_valkey(folder: Path, port: int | None = None) -> Iterator[str]:
    """Runs one: what it had before, if it has run in this folder.

    Args:
        folder: Where it keeps its data.
        port: Of 127.0.0.1, where it is to listen as well; its URL is then of that.
    """
    with private_sockets(folder) as sockets:
        service = parts.valkey(folder / "valkey", sockets / "valkey")
        url = f"unix://{sockets}/valkey?db=0"
        if port is not None:
            service = _at(port, service)
            url = f"redis://127.0.0.1:{port}/0"
        with _running(service, folder):
            yield url


@contextlib.contextmanager
def loading_valkey(folder: Path, port: int) -> Iterator[Callable[[], None]]:
    """Runs one that reads what it has, and answers LOADING, until it is told to be quick."""
    with running_valkey(folder, port) as url, connect(url) as redis:
        redis.mset({f"filler {n}": "x" * 1000 for n in range(30_000)})
        # In the form that this makes, it takes calls between two keys.
        redis.bgrewriteaof()
        wait_until(lambda: not _is_rewriting(redis), 60)
    service = _at(port, parts.valkey(folder / "valkey", folder / "sockets" / "valkey"))
    options = ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
    slow = replace(
        service,
        command=[*service.command, *options],
        is_ready=lambda: ask(port, "PING").startswith("-LOADING"),
    )
    with _running(slow, folder):
        yield lambda: wait_until(lambda: ask(port, "CONFIG SET key-load-delay 0") == "+OK", 60)


@contextlib.contextmanager
def running_milvus(folder: Path) -> Iterator[str]:
    with (
        private_sockets(folder) as sockets,
        _running(parts.milvus_lite(folder / "milvus", sockets / "milvus"), folder),
    ):
        yield f"unix:{sockets}/milvus"


def set_rules(redis: Redis, *rules: str) -> None:
    """Says what Redis does for its clients, in the words of its ACL."""
    execute: Any = redis.execute_command
    execute("ACL", "SETUSER", "default", *rules)


# The wheel of the real Milvus is for Linux on x86-64 alone.
needs_standalone = pytest.mark.skipif(
    find_spec("milvus") is None, reason="there is no wheel of the real Milvus for this platform"
)


@contextlib.contextmanager
def running_standalone(folder: Path) -> Iterator[str]:
    ports = dict.fromkeys(standalone.PORTS, 0)
    while len(set(ports.values())) < len(ports):
        ports = {name: free_port() for name in ports}
    with _running(parts.milvus_standalone(folder / "milvus-standalone", ports), folder):
        yield f"http://127.0.0.1:{ports['proxy.port']}"


@contextlib.contextmanager
def running_worker(
    settings: Settings,
    folder: Path,
    lanes: str = "bulk",
    is_ready: Callable[[], bool] | None = None,
) -> Iterator[psutil.Process]:
    """Runs a Celery worker with one process, and its log in this folder.

    Args:
        settings: Its settings.
        folder: Where its log goes.
        lanes: What it takes.
        is_ready: What it has done once it is given, if not its first task.
    """
    fields = settings.model_dump(mode="json", exclude_defaults=True)
    env = _env_of(fields)
    words = ["-m", "twinlens.cli.main", "worker", "--lanes", lanes, "--processes", "1"]
    worker = Service(
        "worker",
        [sys.executable, "-P", *words],
        os.environ | env,
        is_ready=is_ready or (lambda: has_workers(settings.redis_url)),
        start_s=120,
        grace_s=settings.worker_grace_s + 10,
    )
    with _running(worker, folder) as process:
        yield psutil.Process(process.pid)


@contextlib.contextmanager
def running_api(settings: Settings, folder: Path) -> Iterator[str]:
    """Runs the API under its server, and its log in this folder."""
    fields = settings.model_copy(update={"port": free_port()}).model_dump(
        mode="json", exclude_defaults=True
    )
    env = _env_of(fields)
    url = f"http://127.0.0.1:{fields['port']}"
    command = [sys.executable, "-P", "-m", "twinlens.cli.main", "api"]
    api = Service("api", command, os.environ | env, is_ready=lambda: _is_alive(url), start_s=60)
    with _running(api, folder):
        yield url


def _env_of(fields: dict[str, Any]) -> dict[str, str]:
    return {
        f"TWINLENS_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }


def _is_alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", trust_env=False).is_success
    except httpx.TransportError:
        return False


def has_workers(redis_url: str) -> bool:
    """Tells if there is a worker that takes tasks: it has ended its first probe."""
    with connect(redis_url) as redis:
        try:
            return any(worker.idle_s is not None for worker in live_workers(redis))
        except BusyLoadingError:
            return False


def ask(port: int, words: str) -> str:
    """Returns the first line that a Valkey answers; redis-py would wait until it has loaded."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(f"{words}\r\n".encode())
            return connection.makefile().readline().strip()
    except OSError:
        return ""


def _is_rewriting(redis: Redis) -> bool:
    state: Any = redis.info("persistence")
    return bool(state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])


def _at(port: int, valkey: Service) -> Service:
    options = ("--bind", "127.0.0.1", "--port", str(port))
    return replace(valkey, command=[*valkey.command, *options])


@contextlib.contextmanager
def _running(service: Service, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        (folder / f"{service.name}.log").open("ab") as log,
        subprocess.Popen(
            service.command, env=dict(service.env), stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until(service.is_ready, service.start_s)
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(service.grace_s)
            process.kill()
