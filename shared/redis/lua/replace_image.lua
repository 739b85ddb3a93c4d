-- Replaces an image's record, if nobody has removed it.
-- KEYS: the library's images. ARGV: the image, its record.
local images = KEYS[1]
local image_id, record = unpack(ARGV)

if redis.call('HEXISTS', images, image_id) == 1 then
  redis.call('HSET', images, image_id, record)
end
