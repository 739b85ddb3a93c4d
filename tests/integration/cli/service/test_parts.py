"""The embedded Valkey: what it promises, and when it is ready."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from support.servers import free_port

from twinlens.cli.service import parts
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import Redis
from twinlens.shared.settings import Settings


def config(redis: Redis, name: str) -> Any:
    return redis.config_get(name)[name]


def listening_addresses(port: int) -> set[str]:
    """On which addresses a process of ours listens on a port."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }


def test_what_valkey_has_acknowledged_outlives_it(redis: Redis) -> None:
    assert config(redis, "appendonly") == "yes"
    assert config(redis, "appendfsync") == "everysec"


def test_valkey_throws_nothing_away_and_stops_for_no_snapshot(redis: Redis) -> None:
    assert config(redis, "maxmemory-policy") == "noeviction"
    assert config(redis, "save") == ""


@pytest.mark.parametrize("server", ["redis_url", "milvus_uri"])
def test_embedded_servers_are_for_this_machine_alone(
    server: str, settings: Settings, redis: Redis
) -> None:
    assert redis.ping()
    port = urlsplit(getattr(settings, server)).port
    assert port is not None
    assert listening_addresses(port) == {"127.0.0.1"}


def test_valkey_is_ready_without_the_workers_of_the_last_run(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    port = urlsplit(redis_url).port
    assert port is not None
    redis.hset(keys.WORKERS, "bulk@gone:1", "{}")
    redis.set("kept", "1")
    assert parts.valkey(tmp_path, port).is_ready()
    assert not redis.exists(keys.WORKERS)
    assert redis.get("kept") == "1"


def test_valkey_that_reads_its_file_is_not_ready(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"-LOADING Valkey is loading the dataset in memory\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        is_ready = parts.valkey(tmp_path, server.getsockname()[1]).is_ready()
        thread.join(20)
    assert not is_ready


def test_what_does_not_answer_is_not_ready(tmp_path: Path) -> None:
    assert not parts.valkey(tmp_path, free_port()).is_ready()
    assert not parts.milvus_lite(tmp_path, free_port()).is_ready()
