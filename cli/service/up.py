"""`twinlens up`: the whole service in the foreground."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from typing import TYPE_CHECKING, Literal, TypedDict

import click
from redis import RedisError

from twinlens.cli.errors import CommandRefused
from twinlens.cli.service import parts, standalone
from twinlens.cli.service.addresses import (
    SERVICES_FILE,
    check_host,
    check_port,
    pick_port,
    private_sockets,
    url_of,
)
from twinlens.cli.service.supervisor import Supervisor
from twinlens.cli.words import name_missing
from twinlens.shared.libraries import missing_models
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.client import connect_for_callers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twinlens.cli.service.supervisor import Service
    from twinlens.shared.settings import Settings

# After a kill, the guard holds the lock until everything is gone: some milliseconds.
LOCK_WAIT_S = 2.0

MilvusKind = Literal["lite", "standalone"]
# Where each keeps its vectors: neither can read the other's.
MILVUS_DIRS: dict[MilvusKind, str] = {"lite": "milvus", "standalone": "milvus-standalone"}


def run_up(settings: Settings, n_workers: int | None, milvus: MilvusKind | None = None) -> None:
    """Starts everything, keeps it running, and stops it when a signal comes.

    Args:
        settings: A `redis_url` or `milvus_uri` that was set is of a server that runs already.
        n_workers: How many bulk processes; by default one per core, or one on a GPU.
        milvus: Which Milvus to start; by default Milvus Lite, unless a `milvus_uri` was set.

    Raises:
        CommandRefused: The address or the data directory is not available.
        CommandFailed: A part did not come up.
    """
    check_host(settings)
    if settings.port:
        check_port(settings.host, settings.port)
    if milvus and "milvus_uri" in settings.model_fields_set:
        raise CommandRefused(
            "give either --milvus, for one that is started, or --milvus-uri, for one that runs"
        )
    with contextlib.ExitStack() as held:
        with _usable(settings.data_dir):
            data_dir = _make_data_dir(settings.data_dir)
            lock_fd = held.enter_context(_lock(data_dir))
            chosen = {"data_dir": data_dir, "port": settings.port or pick_port(settings.host)}
            settings = settings.model_copy(update=chosen)
            state = _State(data_dir, settings.port)
            sockets = held.enter_context(private_sockets(data_dir))
            settings, stores = _embed_stores(settings, state, sockets, milvus or "lite")
        steps = [*([store] for store in stores), parts.workers(settings, n_workers)]
        steps.append([parts.api(settings)])
        state.keep(settings)
        supervisor = Supervisor(steps, data_dir / "logs", _say, state.keep_pids)
        supervisor.run(lock_fd, on_ready=lambda: _announce(settings))


class _Kept(TypedDict, total=False):
    """SERVICES_FILE: addresses, the ports of the parts and their process ids, by name."""

    url: str
    redis_url: str
    milvus_uri: str
    ports: dict[str, int]
    pids: dict[str, int]


class _State:
    """What is remembered in the data directory: where the parts listen, and their process ids."""

    def __init__(self, data_dir: Path, api_port: int) -> None:
        self._api_port = api_port
        self._path = data_dir / SERVICES_FILE
        self._kept: _Kept = {}
        with contextlib.suppress(OSError, ValueError):
            kept: _Kept = json.loads(self._path.read_text(encoding="utf-8"))
            if isinstance(kept, dict):
                self._kept = kept

    def port(self, part: str) -> int:
        """Returns the port that a part had last time, or else a free one, and remembers it."""
        ports = self._kept.setdefault("ports", {})
        port = pick_port(wanted=ports.pop(part, None))
        # Free until its part is started, so it can be picked twice.
        while port == self._api_port or port in ports.values():
            port = pick_port()
        ports[part] = port
        return port

    def keep(self, settings: Settings) -> None:
        self._kept |= {
            "url": url_of(settings.host, settings.port),
            "redis_url": settings.redis_url,
            "milvus_uri": settings.milvus_uri,
        }

    def keep_pids(self, pids: dict[str, int]) -> None:
        self._kept["pids"] = {"up": os.getpid(), **pids} if pids else {}
        whole = self._path.with_suffix(".part")
        whole.write_text(json.dumps(self._kept, indent=2) + "\n", encoding="utf-8")
        whole.replace(self._path)


def _embed_stores(
    settings: Settings, state: _State, sockets: Path, milvus: MilvusKind
) -> tuple[Settings, list[Service]]:
    """Adds the servers that no setting names, and puts their addresses into the settings."""
    stores: list[Service] = []
    if "redis_url" not in settings.model_fields_set:
        socket_file = sockets / "valkey"
        stores.append(parts.valkey(settings.data_dir / "redis", socket_file))
        settings = settings.model_copy(update={"redis_url": f"unix://{socket_file}?db=0"})
    if "milvus_uri" not in settings.model_fields_set:
        _check_vectors(settings.data_dir, milvus)
        folder = settings.data_dir / MILVUS_DIRS[milvus]
        if milvus == "lite":
            service, uri = parts.milvus_lite(folder, sockets / "milvus"), f"unix:{sockets}/milvus"
        else:
            service, uri = _standalone(folder, state)
        stores.append(service)
        settings = settings.model_copy(update={"milvus_uri": uri})
    return settings, stores


def _standalone(data_dir: Path, state: _State) -> tuple[Service, str]:
    ports = {name: state.port(f"milvus {name}") for name in standalone.PORTS}
    service = parts.milvus_standalone(data_dir, ports)
    listed = ", ".join(str(ports[name]) for name in standalone.OPEN_PORTS)
    _say(
        "milvus has no authentication and listens on all interfaces; where other machines reach"
        f" this one, close its ports with a firewall: {listed}"
    )
    return service, f"http://127.0.0.1:{ports['proxy.port']}"


def _check_vectors(data_dir: Path, milvus: MilvusKind) -> None:
    """Refuses to serve pictures without their vectors.

    Raises:
        CommandRefused: The vectors of this data directory are in the other Milvus.
    """
    for kind, name in MILVUS_DIRS.items():
        if kind != milvus and (data_dir / name).is_dir():
            raise CommandRefused(
                f"the vectors of {data_dir} are in {name}, which Milvus {milvus} cannot read; use"
                f" --milvus {kind}, or index the pictures into another --data-dir"
            )


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Tells what is wrong with a data directory.

    Raises:
        CommandRefused: It cannot be made, written, or closed to others.
    """
    try:
        yield
    except OSError as error:
        raise CommandRefused(f"cannot use {path} as data directory: {error.strerror}") from error


def _make_data_dir(path: Path) -> Path:
    """Returns a data directory that only its user may look into.

    Raises:
        CommandRefused: Others keep their own there, as in /tmp.
    """
    path.mkdir(parents=True, exist_ok=True)
    if path.stat().st_mode & stat.S_ISVTX:
        raise CommandRefused(f"{path} is for all users of this machine; name a folder below it")
    path.chmod(0o700)
    (path / "logs").mkdir(exist_ok=True)
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
    # Where it goes may be a file on a full disk, or a terminal that is gone.
    with contextlib.suppress(OSError):
        click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


def _announce(settings: Settings) -> None:
    url = url_of(settings.host, settings.port)
    with contextlib.suppress(OSError):
        click.echo(f"ready {url}")
    # Not by HTTP, for which there may have to be a key.
    with contextlib.suppress(RedisError), connect_for_callers(settings.redis_url) as redis:
        catalog = Catalog(redis)
        for line in name_missing(missing_models(catalog.libraries(), catalog.model_refs())):
            _say(line)
