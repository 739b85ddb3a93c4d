"""`twinlens up`: the whole service in the foreground."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Any

import click

from twinlens.cli import parts
from twinlens.cli.addresses import check_host, check_port, pick_port, url_of
from twinlens.cli.errors import CommandRefused
from twinlens.cli.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twinlens.cli.supervisor import Service
    from twinlens.shared.settings import Settings

# After a kill, the guard holds the lock until everything is gone: some milliseconds.
LOCK_WAIT_S = 2.0
SERVICES_FILE = "services.json"


def run_up(settings: Settings, n_workers: int | None) -> None:
    """Starts everything, keeps it running, and stops it when a signal comes.

    Args:
        settings: A `redis_url` or `milvus_uri` that was set names a server that runs already.
        n_workers: Bulk processes; by default one a core, or one on a GPU.

    Raises:
        CommandRefused: The address or the data directory cannot be had.
        CommandFailed: A part did not come up.
    """
    check_host(settings.host, unsafe_bind=settings.unsafe_bind)
    if settings.port:
        check_port(settings.host, settings.port)
    data_dir = _make_data_dir(settings.data_dir)
    with _lock(data_dir) as lock_fd:
        state = _State(data_dir)
        chosen = {"data_dir": data_dir, "port": settings.port or pick_port(settings.host)}
        settings = settings.model_copy(update=chosen)
        settings, stores = _embed_stores(settings, state)
        steps = [*([store] for store in stores), parts.workers(settings, n_workers)]
        steps.append([parts.api(settings)])
        state.keep(settings)
        supervisor = Supervisor(steps, data_dir / "logs", _say, state.keep_pids)
        supervisor.run(lock_fd, on_ready=lambda: _announce(settings))


class _State:
    """What is remembered in the data directory: where parts listen, and who they are."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / SERVICES_FILE
        self._kept: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            self._kept = dict(json.loads(self._path.read_text(encoding="utf-8")))

    def port(self, part: str) -> int:
        """Returns the port that a part had, if it is free, or another; and remembers it."""
        ports = self._kept.setdefault("ports", {})
        ports[part] = pick_port(wanted=ports.get(part))
        return int(ports[part])

    def keep(self, settings: Settings) -> None:
        self._kept |= {
            "url": url_of(settings.host, settings.port),
            "redis_url": settings.redis_url,
            "milvus_uri": settings.milvus_uri,
        }
        self.keep_pids({})

    def keep_pids(self, pids: dict[str, int]) -> None:
        self._kept["pids"] = {"up": os.getpid(), **pids} if pids else {}
        whole = self._path.with_suffix(".part")
        whole.write_text(json.dumps(self._kept, indent=2) + "\n", encoding="utf-8")
        whole.replace(self._path)


def _embed_stores(settings: Settings, state: _State) -> tuple[Settings, list[Service]]:
    """Adds the servers that nobody named, and names them in the settings."""
    stores: list[Service] = []
    if "redis_url" not in settings.model_fields_set:
        port = state.port("valkey")
        stores.append(parts.valkey(settings.data_dir / "redis", port))
        settings = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
    if "milvus_uri" not in settings.model_fields_set:
        port = state.port("milvus")
        stores.append(parts.milvus(settings.data_dir / "milvus", port))
        settings = settings.model_copy(update={"milvus_uri": f"http://127.0.0.1:{port}"})
    return settings, stores


def _make_data_dir(path: Path) -> Path:
    try:
        (path / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandRefused(f"cannot use {path} as data directory: {error.strerror}") from error
    return path.resolve()


@contextlib.contextmanager
def _lock(data_dir: Path) -> Iterator[int]:
    """Holds the data directory.

    Raises:
        CommandRefused: Another `twinlens up` holds it.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    with (data_dir / "lock").open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CommandRefused(
                        f"the data directory {data_dir} is in use by another `twinlens up`; "
                        "choose another with --data-dir"
                    ) from None
                time.sleep(0.05)
        yield file.fileno()


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


def _announce(settings: Settings) -> None:
    click.echo(f"ready {url_of(settings.host, settings.port)}")
