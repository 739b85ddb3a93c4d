-- Writes images' records, each unless somebody has changed it since it was read.
-- KEYS: the library's images, and the order in which they were added.
-- ARGV, of each image in turn: its id; the record that was read, or '' where there was none; the
--   record to write; when the image was added.
-- Returns the ids of those that were not written.
local images, order = unpack(KEYS)

local left = {}
for i = 1, #ARGV, 4 do
  local image_id, before, record, moment = unpack(ARGV, i, i + 3)
  if (redis.call('HGET', images, image_id) or '') == before then
    redis.call('HSET', images, image_id, record)
    redis.call('ZADD', order, 'NX', moment, image_id)
  else
    table.insert(left, image_id)
  end
end
return left
