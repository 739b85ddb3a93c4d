"""A Valkey that has no memory left: a real worker lives on, and does the work once it has some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.plain_uploads import job_of, upload
from support.requests import client_of
from support.servers import running_valkey, running_worker, wait_until

from twinlens.shared.redis import keys
from twinlens.shared.redis.client import connect
from twinlens.shared.redis.presence import live_workers

if TYPE_CHECKING:
    from pathlib import Path

    from twinlens.shared.settings import Settings


def test_a_worker_outlives_a_redis_without_memory(
    settings: Settings, tmp_path: Path, models_dir: Path
) -> None:
    settings.data_dir.joinpath("models").symlink_to(models_dir)
    with running_valkey(tmp_path) as url, connect(url) as redis:
        own = settings.model_copy(update={"redis_url": url})
        client = client_of(own)
        with running_worker(own, tmp_path) as worker:
            first = upload(client)
            wait_until(lambda: job_of(client, first)["finished_at"] is not None, 120)
            redis.config_set("maxmemory", 1)
            # Nobody can tell that he lives.
            wait_until(lambda: live_workers(redis) == [], 60)
            assert worker.is_running()
            redis.config_set("maxmemory", 0)
            second = upload(client)
            redis.config_set("maxmemory", 1)
            wait_until(lambda: redis.llen("bulk") == 0, 60)
            wait_until(lambda: live_workers(redis) == [], 60)
            redis.config_set("maxmemory", 0)
            wait_until(lambda: job_of(client, second)["finished_at"] is not None, 120)
            assert worker.is_running()
            wait_until(lambda: redis.hlen("unacked") + redis.zcard(keys.FED) == 0, 60)
