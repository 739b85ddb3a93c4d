"""A worker that starts waits for Redis, however long that takes to start itself."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from twinlens.shared.redis.client import Redis

log = logging.getLogger(__name__)

PAUSE_S = 1.0


def wait_for(server: Redis) -> None:
    """Returns once Redis answers.

    While it reads its append-only file, which takes minutes for some GB, it answers LOADING.

    Raises:
        redis.RedisError: It answers, and will not work with us, whenever we ask.
    """
    while True:
        try:
            server.ping()
        except redis.AuthenticationError:
            raise
        except (redis.ConnectionError, redis.TimeoutError) as error:
            log.warning("waiting for Redis: %s", error)
            time.sleep(PAUSE_S)
        else:
            return
