-- Reads a page of a set that is ordered by time, newest first. In one step: otherwise the place
-- where the page begins could move before it is read.
-- KEYS: the set.
-- ARGV: how many members besides the first; and, except for the first page, the member before the
--   page and its score.
-- Returns members and scores in turn.
local set = KEYS[1]
local n_more, after, after_score = unpack(ARGV)

local start = 0
if after then
  local rank = redis.call('ZREVRANK', set, after)
  -- The member may have been removed since: go by its time.
  start = rank and rank + 1 or redis.call('ZCOUNT', set, '(' .. after_score, '+inf')
end
return redis.call('ZREVRANGE', set, start, start + n_more, 'WITHSCORES')
