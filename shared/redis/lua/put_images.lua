-- Writes images' records, each unless somebody has changed it, or removed it, since it was read.
-- KEYS: the library's images, the order in which they were added, those that were removed lately;
--   and where a chunk writes, the images that are closed, the record of its job and that job's bit
--   for each counted chunk.
-- ARGV: the chunk, or ''; when it read the images; then of each image in turn: its id; the record
--   that was read, or '' where there was none; the record to write; when the image was added.
-- Returns the ids of those that were not written. Nothing, and none is written, once the chunk is
--   counted or its job has ended. 0, and none is written, where it adds an image that was closed at
--   any time since it looked: its rows in Milvus may be gone.
local images, order, removed, closed, job, done = unpack(KEYS)
local chunk, read_at = unpack(ARGV, 1, 2)

if job then
  local status = redis.call('HGET', job, 'status')
  local is_open = status == 'queued' or status == 'running'
  if not is_open or redis.call('GETBIT', done, chunk) == 1 then return nil end
end

local function is_since_read(times, image_id)
  local moment = redis.call('ZSCORE', times, image_id)
  return moment and tonumber(moment) >= tonumber(read_at)
end

if job then
  for i = 3, #ARGV, 4 do
    local image_id, before = unpack(ARGV, i, i + 1)
    if before == '' and is_since_read(closed, image_id) and not is_since_read(removed, image_id) then
      return 0
    end
  end
end
local left = {}
for i = 3, #ARGV, 4 do
  local image_id, before, record, moment = unpack(ARGV, i, i + 3)
  local is_removed = job and before == '' and is_since_read(removed, image_id)
  if (redis.call('HGET', images, image_id) or '') == before and not is_removed then
    redis.call('HSET', images, image_id, record)
    redis.call('ZADD', order, 'NX', moment, image_id)
  else
    table.insert(left, image_id)
  end
end
return left
