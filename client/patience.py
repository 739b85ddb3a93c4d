"""How long a request is tried again while its service is away or busy."""

from __future__ import annotations

import time

import httpx

# What a service answers during a restart, or a proxy in front of it.
AWAY = frozenset({502, 503, 504})
MAX_TRIES = 5
MAX_RETRY_AFTER_S = 10
FIRST_WAIT_S = 0.5


class Patience:
    """Counts the tries of one request: a few in any case, and more until a time has passed."""

    def __init__(self, outage_s: float) -> None:
        """Starts counting.

        Args:
            outage_s: For how long after its first failure a request is tried again at least.
        """
        self._outage_s = outage_s
        self._n_tries = 0
        self._gives_up_at = 0.0

    def wait(self, retry_after: str = "") -> bool:
        """Waits before the next try: as long as the service said, or longer each time.

        Args:
            retry_after: The answer's header. Only seconds are understood, not a date.

        Returns:
            False, at once, if there is to be no other try.
        """
        self._n_tries += 1
        if self._n_tries == 1:
            self._gives_up_at = time.monotonic() + self._outage_s
        if self._n_tries >= MAX_TRIES and time.monotonic() >= self._gives_up_at:
            return False
        wait_s = int(retry_after) if retry_after.isdigit() else FIRST_WAIT_S * 2**self._n_tries / 2
        time.sleep(min(wait_s, MAX_RETRY_AFTER_S))
        return True


def may_come_later(response: httpx.Response) -> bool:
    """Tells if the same request may succeed later."""
    has_said = response.headers.get("Retry-After", "").isdigit()
    return not response.is_success and (has_said or response.status_code in AWAY)
