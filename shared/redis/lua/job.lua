-- Goes before each change of a job.
-- KEYS 1 to 11: the job's record, its events, its bit for each counted chunk, its tries; the uploads
--   that are arriving, the jobs whose one task has not ended; the chunks on their way, the waiting
--   pictures, the libraries in turn; bytes of the pictures of queries, and until when they are there.
-- ARGV 1 to 5: the keys of a library's open uploads and of its jobs in turn, `*` for its id; how
--   long a record is kept past its life, and how long that of a search, and the window of the rate,
--   all in seconds.
local record, events, done, tries, arriving, tasks, fed, backlog, ring, sent, sent_until =
  unpack(KEYS, 1, 11)
local uploads_of, jobs_of, tombstone_s, search_tombstone_s, rate_window_s = unpack(ARGV, 1, 5)

local function get(name) return redis.call('HGET', record, name) end
local function number(name) return tonumber(get(name) or '0') end
local function add(name, n) return redis.call('HINCRBY', record, name, n) end
local function library_id() return get('library_id') or get('library') end
local function of_library(key) return (string.gsub(key, '%*', library_id())) end

local function has_items() return get('has_items') == 'true' end

-- Whether its chunks are fed in turn, and counted in the backlog.
local function is_fed()
  local kind = get('kind')
  return kind == 'bulk' or kind == 'reindex' or kind == 'reconcile' or has_items()
end

-- Raises the revision, and wakes whoever waits. Chunk -1: not a counted chunk but another change.
local function announce(chunk, n_failed)
  add('revision', 1)
  redis.call('XADD', events, '*', 'status', get('status'), 'chunk', chunk, 'n_failed', n_failed)
  -- The last event may be the first, and a stream that does not exist yet cannot be set to expire.
  if get('finished_at') then redis.call('EXPIRE', events, get('ttl_s')) end
end

-- Its one task has ended: there is nothing to be queued again.
local function forget_task()
  redis.call('ZREM', tasks, 'search:' .. get('id'), 'single:' .. get('id'))
  redis.call('HDEL', record, 'task')
end

-- Nobody reads the pictures of a query that is over, however it ended.
local function forget_kept()
  local kept = get('kept')
  if not kept then return end
  for key in string.gmatch(kept, '%S+') do redis.call('DEL', key) end
  redis.call('HDEL', record, 'kept')
  release(sent, sent_until, get('id'))
end

-- Whoever wants to be told of its end is, from now on.
local function owe_webhook(moment, ttl_s)
  local line = get('webhook_line')
  if not line then return end
  redis.call('ZADD', line, moment, get('id'))
  redis.call('HSET', record, 'webhook_at', moment)
  -- No longer than the job that is kept for longest.
  if redis.call('TTL', line) < ttl_s then redis.call('EXPIRE', line, ttl_s) end
end

-- Keeps the record past its life, to tell an expired job from one that never existed.
local function finish(status, moment, problem)
  local ttl_s = number('ttl_s')
  redis.call('HSET', record, 'status', status, 'finished_at', moment,
             'expires_at', tostring(tonumber(moment) + ttl_s))
  if problem and problem ~= '' then redis.call('HSET', record, 'error', problem) end
  local kept_s = get('kind') == 'search' and search_tombstone_s or tombstone_s
  redis.call('EXPIRE', record, ttl_s + kept_s)
  redis.call('EXPIRE', done, ttl_s)
  redis.call('DEL', tries)
  redis.call('SREM', arriving, get('id'))
  forget_task()
  forget_kept()
  owe_webhook(moment, ttl_s)
  redis.call('ZREM', of_library(uploads_of), get('id'))
  if is_fed() then
    local n_counted = number('succeeded') + number('updated') + number('skipped')
      + number('failed')
    redis.call('DECRBY', backlog, number('received') - n_counted)
  end
end

local function is_counted()
  return get('total') and number('n_chunks_done') == number('n_chunks')
end

local function is_all_failed()
  return is_fed() and number('failed') > 0 and number('failed') == number('received')
end

local function end_if_all_is_counted(moment, problem)
  -- A library's new edition has to be switched on before the job that built it has ended.
  if get('kind') == 'reindex' then return end
  if is_counted() then
    problem = problem ~= '' and problem or get('upload_error')
    local has_failed = problem or is_all_failed()
    finish(has_failed and 'failed' or 'succeeded', moment, problem)
  end
end

local status = get('status')
local is_open = status == 'queued' or status == 'running'

-- A removal that is one step cannot be halfway: once it has begun, it is done.
local function must_be_done()
  return get('kind') == 'delete' and not has_items() and status == 'running'
end
