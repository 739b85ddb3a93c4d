-- Lets nobody add images for a while, and no chunk that looked for them before that is over.
-- KEYS: the images that are closed, or were lately, by the time until when.
-- ARGV: for how many seconds; how long to keep it in mind; then the images' ids.
-- Returns until when; nothing, and none is closed, where somebody else has closed one of them.
local closed = KEYS[1]
local for_s, kept_s = unpack(ARGV, 1, 2)

local seconds, microseconds = unpack(redis.call('TIME'))
local until_when = string.format('%d.%06d', seconds + for_s, microseconds)
for i = 3, #ARGV do
  local score = redis.call('ZSCORE', closed, ARGV[i])
  if score and tonumber(score) > tonumber(seconds) + microseconds / 1e6 then return nil end
end
for i = 3, #ARGV do redis.call('ZADD', closed, until_when, ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', closed, '-inf', seconds - kept_s)
redis.call('EXPIRE', closed, kept_s)
return until_when
