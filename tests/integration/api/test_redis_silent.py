"""A Redis that stands still, in front of a real server: what is answered, and when it is over."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from support.inside_worker import serve_only
from support.servers import free_port, running_api, running_valkey, wait_until

from twinlens.shared.redis.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twinlens.shared.settings import Settings

N_CALLERS = 40
PNG = {"Content-Type": "image/png"}
# What each caller may wait; with tries of 5 s, some waited for 21.
DEADLINE_S = 9.0


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    with running_valkey(tmp_path, free_port()) as url, connect(url) as redis:
        serve_only(redis, "phash@1")
        # Every request is counted there, too.
        yield settings.model_copy(update={"redis_url": url, "requests_per_minute": 10_000})


def connections_to(port: int) -> int:
    """On the side of the server; those that it has not yet taken are nobody's."""
    return sum(
        one.status != psutil.CONN_LISTEN and getattr(one.laddr, "port", None) == port
        for one in psutil.net_connections("tcp4")
    )


def test_a_silent_redis_is_told_of_and_its_return_noticed(own: Settings, tmp_path: Path) -> None:
    port = urlsplit(own.redis_url).port
    assert port is not None
    with connect(own.redis_url) as redis:
        server: Any = redis.info("server")
    valkey = psutil.Process(server["process_id"])
    with (
        running_api(own, tmp_path) as url,
        httpx.Client(base_url=url, timeout=DEADLINE_S, trust_env=False) as client,
        ThreadPoolExecutor(N_CALLERS) as callers,
    ):

        def upload() -> int:
            return client.post("/v1/images", content=b"x", headers=PNG).status_code

        assert {future.result() for future in [callers.submit(upload) for _ in range(40)]} == {202}
        valkey.send_signal(signal.SIGSTOP)
        try:
            waves = [[callers.submit(upload) for _ in range(N_CALLERS)] for _ in range(5)]
            for path, status in (("/livez", 200), ("/readyz", 503)):
                assert client.get(path, timeout=3).status_code == status
            assert {future.result() for wave in waves for future in wave} == {503}
            assert connections_to(port) < 4 * N_CALLERS
        finally:
            valkey.send_signal(signal.SIGCONT)
        wait_until(lambda: upload() == 202, DEADLINE_S)
