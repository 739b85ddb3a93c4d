"""Pages of a Redis sorted set whose scores are times, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinlens.shared.messages import Cursor

if TYPE_CHECKING:
    from redis import Redis


def page_of(
    redis: Redis, key: str, limit: int, after: Cursor | None
) -> tuple[list[str], Cursor | None]:
    """Reads one page: members, and the cursor of the next page (None at the end).

    A page begins behind the member it was left at, wherever that one stands by now, so that
    nothing is shown twice or left out while new members arrive at the front.
    """
    start: int = 0
    if after is not None:
        rank: Any = redis.zrevrank(key, after.member)
        # The member may have been removed since: go by its time.
        start = rank + 1 if rank is not None else redis.zcount(key, f"({after.score!r}", "+inf")
    rows: list[Any] = redis.zrange(key, start, start + limit, desc=True, withscores=True)
    members = [member for member, _ in rows[:limit]]
    if len(rows) <= limit:
        return members, None
    member, score = rows[limit - 1]
    return members, Cursor(score=score, member=member)
