-- Removes images' records, and keeps in mind when: a chunk that began before must not bring them
-- back. Repeated, it changes nothing: an image may have been posted again.
-- KEYS: the library's images, the order in which they were added, those that were removed lately.
-- ARGV: for how many seconds to keep them in mind; then the images' ids.
local images, order, removed = unpack(KEYS)
local kept_s = ARGV[1]

local seconds, microseconds = unpack(redis.call('TIME'))
local moment = string.format('%d.%06d', seconds, microseconds)
for i = 2, #ARGV do
  if redis.call('HDEL', images, ARGV[i]) == 1 then
    redis.call('ZREM', order, ARGV[i])
    redis.call('ZADD', removed, moment, ARGV[i])
  end
end
redis.call('ZREMRANGEBYSCORE', removed, '-inf', seconds - kept_s)
redis.call('EXPIRE', removed, kept_s)
