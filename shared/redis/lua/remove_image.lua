-- Removes an image's record, and keeps in mind when: a chunk that began before must not bring it
-- back. Repeated, it changes nothing: the image may have been posted again.
-- KEYS: the library's images, the order in which they were added, those that were removed lately.
-- ARGV: the image's id; for how many seconds to keep it in mind.
local images, order, removed = unpack(KEYS)
local image_id, kept_s = unpack(ARGV)

if redis.call('HDEL', images, image_id) == 0 then return end
redis.call('ZREM', order, image_id)
local seconds, microseconds = unpack(redis.call('TIME'))
redis.call('ZADD', removed, string.format('%d.%06d', seconds, microseconds), image_id)
redis.call('ZREMRANGEBYSCORE', removed, '-inf', seconds - kept_s)
redis.call('EXPIRE', removed, kept_s)
