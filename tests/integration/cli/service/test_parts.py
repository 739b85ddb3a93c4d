"""The embedded Valkey: what it promises, and when it is ready."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from support.servers import running_valkey

from twinlens.cli.service import parts
from twinlens.cli.service.addresses import private_sockets
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import Redis, connect
from twinlens.shared.settings import Settings


def config(redis: Redis, name: str) -> Any:
    return redis.config_get(name)[name]


def listening_ports(socket_file: Path) -> set[int]:
    """Ports on which the server of a socket listens as well, on any address."""
    [server] = [
        process
        for process in psutil.Process().children(recursive=True)
        if str(socket_file) in " ".join(process.cmdline())
    ]
    return {
        connection.laddr.port
        for connection in server.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def test_what_valkey_has_acknowledged_outlives_it(redis: Redis) -> None:
    assert config(redis, "appendonly") == "yes"
    assert config(redis, "appendfsync") == "everysec"


def test_valkey_throws_nothing_away_and_stops_for_no_snapshot(redis: Redis) -> None:
    assert config(redis, "maxmemory-policy") == "noeviction"
    assert config(redis, "save") == ""


def test_valkey_leaves_most_of_the_memory_to_others(redis: Redis) -> None:
    total = psutil.virtual_memory().total
    assert total / 5 < int(config(redis, "maxmemory")) < total / 3


def test_nobody_else_on_this_machine_reaches_embedded_servers(
    settings: Settings, redis: Redis
) -> None:
    assert redis.ping()
    for url in (settings.redis_url, settings.milvus_uri):
        socket_file = Path(urlsplit(url).path)
        assert socket_file.is_socket()
        assert socket_file.parent.stat().st_mode & 0o777 == 0o700
        assert listening_ports(socket_file) == set()


@pytest.mark.parametrize("name", ["x" * 110, "My Pictures", "100%"])
def test_where_no_socket_can_be_it_is_in_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    data_dir = tmp_path / name
    data_dir.mkdir()
    with private_sockets(data_dir) as folder:
        assert not folder.is_relative_to(tmp_path)
        assert folder.stat().st_mode & 0o777 == 0o700
        with running_valkey(data_dir) as url, connect(url) as redis:
            assert redis.ping()
    assert not folder.exists()


def test_valkey_is_ready_without_the_workers_of_the_last_run(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    redis.hset(keys.WORKERS, "bulk@gone:1", "{}")
    redis.set("kept", "1")
    assert parts.valkey(tmp_path, Path(urlsplit(redis_url).path)).is_ready()
    assert not redis.exists(keys.WORKERS)
    assert redis.get("kept") == "1"


def test_valkey_that_reads_its_file_is_not_ready(tmp_path: Path) -> None:
    socket_file = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(socket_file))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"-LOADING Valkey is loading the dataset in memory\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        is_ready = parts.valkey(tmp_path, socket_file).is_ready()
        thread.join(20)
    assert not is_ready


def test_what_does_not_answer_is_not_ready(tmp_path: Path) -> None:
    assert not parts.valkey(tmp_path, tmp_path / "socket").is_ready()
    assert not parts.milvus_lite(tmp_path, tmp_path / "socket").is_ready()
