-- Reads a page of a set that is ordered by time. In one step: otherwise the place where the page
-- begins could move before it is read.
-- KEYS: the set.
-- ARGV: `newest` or `oldest`, which comes first; how many members besides the first; and, except for
--   the first page, the member before the page and its score.
-- Returns members and scores in turn.
local set = KEYS[1]
local first, n_more, after, after_score = unpack(ARGV)
local is_newest_first = first == 'newest'

local start = 0
if after then
  local rank = redis.call(is_newest_first and 'ZREVRANK' or 'ZRANK', set, after)
  -- The member may have been removed since: go by its time.
  start = rank and rank + 1
    or is_newest_first and redis.call('ZCOUNT', set, '(' .. after_score, '+inf')
    or redis.call('ZCOUNT', set, '-inf', '(' .. after_score)
end
local range = is_newest_first and 'ZREVRANGE' or 'ZRANGE'
return redis.call(range, set, start, start + n_more, 'WITHSCORES')
