"""How often a caller may ask, reported in the RateLimit fields of the IETF's draft 10."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from twinlens.shared.errors import RateLimited
from twinlens.shared.redis.client import caller_options

if TYPE_CHECKING:
    from twinlens.shared.settings import Settings

WINDOW_S = 60
# Only these are limited: whatever monitors the service must not be refused.
PREFIX = "/v1/"


def install(app: Flask, settings: Settings) -> None:
    """Limits the requests of each caller, if a limit is set.

    See docs/decisions/0006-limits-and-fetching.md.
    """
    if not settings.requests_per_minute:
        return
    quota = RateLimitItemPerMinute(settings.requests_per_minute)
    limiter = SlidingWindowCounterRateLimiter(RedisStorage(settings.redis_url, **caller_options()))

    @app.before_request
    def count() -> None:
        if not request.path.startswith(PREFIX):
            return
        caller = request.remote_addr or ""
        is_taken = limiter.hit(quota, caller)
        window = limiter.get_window_stats(quota, caller)
        reset_s = max(1, math.ceil(window.reset_time - time.time()))
        g.rate_limit = f'"requests";r={window.remaining};t={reset_s}'
        if not is_taken:
            raise RateLimited(
                f"More than {quota.amount} requests were sent in a minute.", retry_after_s=reset_s
            )

    @app.after_request
    def tell(response: Response) -> Response:
        if "rate_limit" in g:
            response.headers["RateLimit-Policy"] = f'"requests";q={quota.amount};w={WINDOW_S}'
            response.headers["RateLimit"] = g.rate_limit
        return response
