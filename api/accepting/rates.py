"""How often a caller may ask, reported in the RateLimit fields of the IETF's draft 10.

A caller is a key, wherever it is used; without one, an address.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from twinlens.api.access.checks import current_grant
from twinlens.shared.errors import RateLimited
from twinlens.shared.redis.client import caller_options

if TYPE_CHECKING:
    from twinlens.shared.settings import Settings

WINDOW_S = 60
# Only these are limited: whatever monitors the service must not be refused.
PREFIX = "/v1/"


def install(app: Flask, settings: Settings) -> None:
    """Limits the requests of each caller, if a limit is set: by its key, or for all.

    See docs/decisions/0006-limits-and-fetching.md.
    """
    limiter = SlidingWindowCounterRateLimiter(RedisStorage(settings.redis_url, **caller_options()))

    @app.before_request
    def count() -> None:
        if not request.path.startswith(PREFIX):
            return
        caller, n_most = _caller(settings.requests_per_minute)
        if not n_most:
            return
        quota = RateLimitItemPerMinute(n_most)
        is_taken = limiter.hit(quota, caller)
        window = limiter.get_window_stats(quota, caller)
        reset_s = max(1, math.ceil(window.reset_time - time.time()))
        g.rate_limit = {
            "RateLimit-Policy": f'"requests";q={n_most};w={WINDOW_S}',
            "RateLimit": f'"requests";r={window.remaining};t={reset_s}',
        }
        if not is_taken:
            raise RateLimited(
                f"More than {n_most} requests were sent in a minute.", retry_after_s=reset_s
            )

    @app.after_request
    def tell(response: Response) -> Response:
        response.headers.update(g.get("rate_limit", {}))
        return response


def _caller(n_most: int) -> tuple[str, int]:
    """Returns who asks, and how often it may do so in a minute; 0 for as often as it likes.

    Args:
        n_most: How often callers may that are not told otherwise.
    """
    grant = current_grant()
    if not grant.id:
        return request.remote_addr or "", n_most
    own = grant.requests_per_minute
    return f"key {grant.id}", n_most if own is None else own
