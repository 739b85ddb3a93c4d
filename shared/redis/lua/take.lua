-- Takes the next chunk in turn, if few enough are on their way: each worker process has one that it
-- works on, and one that waits for it.
-- KEYS: the libraries in turn, the chunks on their way, the live worker processes.
-- ARGV: now; the keys of a library's jobs in turn and of a job's record, `*` for library and job.
-- Returns job, chunk and request id; or nothing.
local ring, fed, workers = unpack(KEYS)
local moment, jobs_of, record_of = unpack(ARGV)
local function named(key, name) return (string.gsub(key, '%*', name)) end

local n_most = 2 * redis.call('HLEN', workers) + 2
while redis.call('ZCARD', fed) < n_most do
  local library = redis.call('LMOVE', ring, ring, 'LEFT', 'RIGHT')
  if not library then return nil end
  local jobs = named(jobs_of, library)
  local id = redis.call('LPOP', jobs)
  local record = named(record_of, id)
  local status, n_fed, n_chunks, request_id =
    unpack(redis.call('HMGET', record, 'status', 'n_fed', 'n_chunks', 'request_id'))
  local chunk = tonumber(n_fed or '0')
  n_chunks = tonumber(n_chunks or '0')
  local is_open = status == 'queued' or status == 'running'
  if is_open and chunk + 1 < n_chunks then
    redis.call('RPUSH', jobs, id)
  elseif status then
    redis.call('HDEL', record, 'in_ring')
  end
  if redis.call('LLEN', jobs) == 0 then redis.call('LREM', ring, 1, library) end
  if is_open and chunk < n_chunks then
    redis.call('HSET', record, 'n_fed', chunk + 1)
    redis.call('ZADD', fed, moment, id .. '.' .. chunk)
    return {id, chunk, request_id or ''}
  end
end
return nil
