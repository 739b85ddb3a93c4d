-- Opens images that were closed, unless somebody else has closed them since.
-- KEYS: as of `close_images`.
-- ARGV: what that returned; then the images' ids.
local closed, until_when = KEYS[1], tonumber(ARGV[1])

local seconds, microseconds = unpack(redis.call('TIME'))
local moment = string.format('%d.%06d', seconds, microseconds)
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', closed, ARGV[i])
  if score and tonumber(score) == until_when then redis.call('ZADD', closed, moment, ARGV[i]) end
end
