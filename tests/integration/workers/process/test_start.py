"""A worker is started before what it works with is there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from redis import AuthenticationError
from support.servers import free_port, has_workers, loading_valkey, wait_until

from twinlens.cli.service.guard import kill_group
from twinlens.shared.redis.client import connect
from twinlens.workers.process.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def starting_worker(
    folder: Path, models_dir: Path, redis_port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of both lanes, without Milvus."""
    (folder / "data").mkdir()
    (folder / "data/models").symlink_to(models_dir)
    env = {
        "TWINLENS_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "TWINLENS_MILVUS_URI": f"http://127.0.0.1:{free_port()}",
        "TWINLENS_DATA_DIR": str(folder / "data"),
        "TWINLENS_MILVUS_TIMEOUT_S": "1",
    }
    command = [sys.executable, "-P", "-m", "twinlens.cli.main", "worker"]
    command += ["--lanes", "search,bulk", "--processes", "1"]
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            command, env=os.environ | env, stdout=log, stderr=log, start_new_session=True
        )
    with worker:
        try:
            yield worker
        finally:
            kill_group(worker.pid)


def has_waited(folder: Path) -> bool:
    return "waiting for Redis" in (folder / "worker.log").read_text(encoding="utf-8")


def test_it_waits_for_a_redis_that_reads_what_it_has(tmp_path: Path, models_dir: Path) -> None:
    port = free_port()
    with (
        loading_valkey(tmp_path, port) as end_loading,
        starting_worker(tmp_path, models_dir, port) as worker,
    ):
        wait_until(lambda: has_waited(tmp_path) or worker.poll() is not None, 120)
        end_loading()
        url = f"redis://127.0.0.1:{port}/0"
        wait_until(lambda: has_workers(url) or worker.poll() is not None, 120)
        assert worker.poll() is None


def test_it_ends_when_it_is_told_to_while_it_waits(tmp_path: Path, models_dir: Path) -> None:
    with starting_worker(tmp_path, models_dir, free_port()) as worker:
        wait_until(lambda: has_waited(tmp_path), 120)
        worker.terminate()
        worker.wait(60)


def test_it_does_not_wait_for_a_redis_that_refuses_it(redis_url: str) -> None:
    with (
        connect(redis_url.replace("//", "//nobody:wrong@")) as redis,
        pytest.raises(AuthenticationError),
    ):
        wait_for(redis)
