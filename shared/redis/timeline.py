"""Pages of a Redis sorted set whose scores are times, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinlens.shared.messages import Cursor

if TYPE_CHECKING:
    from redis import Redis


# In one step: where the page begins would be another place by the time that it is read.
# KEYS: the set. ARGV: how many members beside the first, and the cursor's member and score.
_READ = """
local start = 0
if ARGV[2] then
  local rank = redis.call('ZREVRANK', KEYS[1], ARGV[2])
  -- The member may have been removed since: go by its time.
  start = rank and rank + 1 or redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[3], '+inf')
end
return redis.call('ZREVRANGE', KEYS[1], start, start + ARGV[1], 'WITHSCORES')
"""


def page_of(
    redis: Redis, key: str, limit: int, after: Cursor | None
) -> tuple[list[str], Cursor | None]:
    """Reads one page: members, and the cursor of the next page (None at the end).

    A page begins behind the member it was left at, wherever that one stands by now, so that
    nothing is shown twice or left out while new members arrive at the front.
    """
    place = () if after is None else (after.member, repr(after.score))
    found: Any = redis.eval(_READ, 1, key, limit, *place)
    members, scores = found[::2], found[1::2]
    if len(members) <= limit:
        return members, None
    return members[:limit], Cursor(score=float(scores[limit - 1]), member=members[limit - 1])
