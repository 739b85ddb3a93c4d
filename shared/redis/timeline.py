"""Pages of a Redis sorted set whose scores are times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from twinlens.shared.messages import Cursor
from twinlens.shared.redis.scripts import read_script

if TYPE_CHECKING:
    from twinlens.shared.redis.client import Redis


def page_of(
    redis: Redis,
    key: str,
    limit: int,
    after: Cursor | None,
    first: Literal["newest", "oldest"] = "newest",
) -> tuple[list[str], Cursor | None]:
    """Reads one page: members, and the cursor of the next page (None at the end).

    A page begins after the last member that was shown, wherever that is by now, so that nothing
    is shown twice or left out while new members arrive at the front.
    """
    place = () if after is None else (after.member, repr(after.score))
    rows: Any = redis.eval(read_script("page"), 1, key, first, limit, *place)
    members, scores = rows[::2], rows[1::2]
    if len(members) <= limit:
        return members, None
    return members[:limit], Cursor(score=float(scores[limit - 1]), member=members[limit - 1])
