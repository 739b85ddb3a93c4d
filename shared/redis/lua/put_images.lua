-- Writes images' records, each unless somebody has changed it, or removed it, since it was read.
-- KEYS: the library's images, the order in which they were added, those that were removed lately;
--   and where a chunk writes, the record of its job and that job's bit for each counted chunk.
-- ARGV: the chunk, or ''; when it read the images; then of each image in turn: its id; the record
--   that was read, or '' where there was none; the record to write; when the image was added.
-- Returns the ids of those that were not written. Nothing, and none is written, once the chunk is
--   counted or its job has ended.
local images, order, removed, job, done = unpack(KEYS)
local chunk, read_at = unpack(ARGV, 1, 2)

if job then
  local status = redis.call('HGET', job, 'status')
  local is_open = status == 'queued' or status == 'running'
  if not is_open or redis.call('GETBIT', done, chunk) == 1 then return nil end
end
local left = {}
for i = 3, #ARGV, 4 do
  local image_id, before, record, moment = unpack(ARGV, i, i + 3)
  local removed_at = job and before == '' and redis.call('ZSCORE', removed, image_id)
  local is_removed = removed_at and tonumber(removed_at) >= tonumber(read_at)
  if (redis.call('HGET', images, image_id) or '') == before and not is_removed then
    redis.call('HSET', images, image_id, record)
    redis.call('ZADD', order, 'NX', moment, image_id)
  else
    table.insert(left, image_id)
  end
end
return left
