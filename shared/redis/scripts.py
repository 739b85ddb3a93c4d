"""The changes of job records, as scripts that run inside Redis, where nothing comes between.

Two workers can so never disagree about a job, and its progress, the queue's backlog and the
stream of its events always tell the same.
"""

from __future__ import annotations

# An expired job still answers 410 for this long, before its id is forgotten (404). Searches come by
# the thousand.
TOMBSTONE_S = 30 * 86_400
SEARCH_TOMBSTONE_S = 86_400
# The rate is an average whose weights fall by e in this time: some chunks of a slow model.
RATE_WINDOW_S = 30

# An upload of which nothing was heard for so long has lost its API process, or its client.
ARRIVAL_TTL_S = 120

# Uploads that are still being read, and single pictures that are not yet embedded: what the
# sweeper looks through.
ARRIVING = "tl:jobs:arriving"
SINGLES = "tl:jobs:singles"

# Bulk jobs wait in two rings, so that libraries take turns, and the jobs of a library: a list of
# libraries, and one list of jobs for each. Only a few chunks are in Celery's queue at a time.
RING = "tl:feed:libraries"
# Chunks that are queued or running, with the Unix time since when.
FED = "tl:feed:fed"
# Pictures of bulk jobs that are stored and not yet counted.
BACKLOG = "tl:feed:backlog"
# Worker processes that live (shared/redis/presence.py).
WORKERS = "tl:workers"


def open_uploads(library: str) -> str:
    """Returns the key of a library's uploads that have not ended, by the time of their creation."""
    return f"tl:library:{library}:uploads"


def record(job_id: str) -> str:
    return f"tl:job:{job_id}"


def events(job_id: str) -> str:
    return f"tl:job:{job_id}:events"


def done(job_id: str) -> str:
    """Returns the key of a bit for each chunk: whether it is counted."""
    return f"tl:job:{job_id}:done"


def arrival(job_id: str) -> str:
    """Returns the key that lives while an upload is being read."""
    return f"tl:job:{job_id}:arrival"


def keys(job_id: str) -> list[str]:
    """Returns the keys that a script on one job takes."""
    return [record(job_id), events(job_id), done(job_id)]


# KEYS: record, events, done bits. `finish` keeps the record as a tombstone past its life, so that
# an expired job is told from one that never was.
_COMMON = f"""
local record, events, done = KEYS[1], KEYS[2], KEYS[3]
local function get(name) return redis.call('HGET', record, name) end
local function number(name) return tonumber(get(name) or '0') end
local function add(name, n) return redis.call('HINCRBY', record, name, n) end

-- Whether its chunks are fed in turn, and counted in the backlog.
local function is_fed() return get('kind') == 'bulk' or get('kind') == 'reindex' end

local function announce(chunk, n_failed)
  add('revision', 1)
  redis.call('XADD', events, '*', 'status', get('status'), 'chunk', chunk, 'n_failed', n_failed)
  -- The last event may be the first, and what is not there yet cannot be told to expire.
  if get('finished_at') then redis.call('EXPIRE', events, get('ttl_s')) end
end

local function finish(status, moment, problem)
  local ttl = number('ttl_s')
  redis.call('HSET', record, 'status', status, 'finished_at', moment,
             'expires_at', tostring(tonumber(moment) + ttl))
  if problem and problem ~= '' then redis.call('HSET', record, 'error', problem) end
  local tombstone = get('kind') == 'search' and {SEARCH_TOMBSTONE_S} or {TOMBSTONE_S}
  redis.call('EXPIRE', record, ttl + tombstone)
  redis.call('EXPIRE', done, ttl)
  redis.call('SREM', '{ARRIVING}', get('id'))
  redis.call('SREM', '{SINGLES}', get('id'))
  redis.call('ZREM', 'tl:library:' .. get('library') .. ':uploads', get('id'))
  if is_fed() then
    local n_counted = number('succeeded') + number('skipped') + number('failed')
    redis.call('DECRBY', '{BACKLOG}', number('received') - n_counted)
  end
end

local function end_if_all_is_counted(moment, problem)
  -- A library's new edition has to be switched on before the job that built it has ended.
  if get('kind') == 'reindex' then return end
  if get('total') and number('n_chunks_done') == number('n_chunks') then
    problem = problem ~= '' and problem or get('upload_error')
    finish(problem and 'failed' or 'succeeded', moment, problem)
  end
end

local status = get('status')
local is_open = status == 'queued' or status == 'running'
"""

# ARGV: moment. KEYS[4], if given: the tries of a job of one task, and ARGV[2] how long they are
# kept. Returns 0 if there is nothing to do, else the number of this try, or 1.
START = (
    _COMMON
    + """
if not is_open then return 0 end
if status == 'queued' then
  redis.call('HSET', record, 'status', 'running', 'started_at', ARGV[1])
  announce(-1, 0)
end
if not KEYS[4] then return 1 end
local n_tries = redis.call('HINCRBY', KEYS[4], 'task', 1)
redis.call('EXPIRE', KEYS[4], ARGV[2])
return n_tries
"""
)

# ARGV: status, moment, problem, and where the result goes and what it is, if there is one.
FINISH = (
    _COMMON
    + """
if not is_open then return 0 end
if ARGV[4] then redis.call('SET', ARGV[4], ARGV[5], 'EX', get('ttl_s')) end
finish(ARGV[1], ARGV[2], ARGV[3])
announce(-1, 0)
return 1
"""
)

# ARGV: how many pictures. Returns whether the job still takes any.
ADD_CHUNK = (
    _COMMON
    + f"""
if not is_open or get('total') then return 0 end
add('n_chunks', 1)
add('received', ARGV[1])
redis.call('INCRBY', '{BACKLOG}', ARGV[1])
if redis.call('HSETNX', record, 'in_ring', 1) == 1 then
  local library = get('library')
  if redis.call('RPUSH', '{RING}:' .. library, get('id')) == 1 then
    redis.call('RPUSH', '{RING}', library)
  end
end
announce(-1, 0)
return 1
"""
)

# ARGV: moment, the problem that broke the upload or ''. Only the first seal counts: the sweeper may
# have found an upload lost just before it ended.
SEAL = (
    _COMMON
    + f"""
if not is_open or get('total') then return 0 end
redis.call('HSET', record, 'total', get('received'))
redis.call('SREM', '{ARRIVING}', get('id'))
if ARGV[2] ~= '' then redis.call('HSET', record, 'upload_error', ARGV[2]) end
end_if_all_is_counted(ARGV[1], '')
announce(-1, 0)
return 1
"""
)

# ARGV: chunk, succeeded, skipped, failed, moment, the problem of a single picture or '', and where
# the outcomes go and what they are.
# The rate is an exponential moving average of n / dt over the chunks, dt being the time since the
# one before. `progress_of` divides it by the weight that there is so far.
COUNT = (
    _COMMON
    + f"""
redis.call('ZREM', '{FED}', get('id') .. '.' .. ARGV[1])
if not is_open then return 0 end
if redis.call('SETBIT', done, ARGV[1], 1) == 1 then return 0 end
redis.call('SET', ARGV[7], ARGV[8], 'EX', get('ttl_s'))
local n = ARGV[2] + ARGV[3] + ARGV[4]
add('succeeded', ARGV[2])
add('skipped', ARGV[3])
add('failed', ARGV[4])
add('n_chunks_done', 1)
local moment = tonumber(ARGV[5])
local dt = math.max(moment - (number('counted_at') > 0 and number('counted_at')
                              or number('started_at')), 0.001)
local fade = math.exp(-dt / {RATE_WINDOW_S})
local rate = number('rate') * fade + n / dt * (1 - fade)
redis.call('HSET', record, 'rate', tostring(rate), 'counted_at', ARGV[5])
if is_fed() then redis.call('DECRBY', '{BACKLOG}', n) end
end_if_all_is_counted(ARGV[5], get('kind') == 'embed' and ARGV[6] or '')
announce(ARGV[1], ARGV[4])
return 1
"""
)

# ARGV: moment. Takes the next chunk in turn, if few enough are on their way: each process has one
# that it works on, and one that waits for it. Returns job, chunk, request id; or nothing.
TAKE = f"""
local n_most = 2 * redis.call('HLEN', '{WORKERS}') + 2
while redis.call('ZCARD', '{FED}') < n_most do
  local library = redis.call('LMOVE', '{RING}', '{RING}', 'LEFT', 'RIGHT')
  if not library then return nil end
  local jobs = '{RING}:' .. library
  local id = redis.call('LPOP', jobs)
  local record = 'tl:job:' .. id
  local found = redis.call('HMGET', record, 'status', 'n_fed', 'n_chunks', 'request_id')
  local chunk, n_chunks = tonumber(found[2] or '0'), tonumber(found[3] or '0')
  local is_open = found[1] == 'queued' or found[1] == 'running'
  local has_more = is_open and chunk + 1 < n_chunks
  if has_more then
    redis.call('RPUSH', jobs, id)
  elseif found[1] then
    redis.call('HDEL', record, 'in_ring')
  end
  if redis.call('LLEN', jobs) == 0 then redis.call('LREM', '{RING}', 1, library) end
  if is_open and chunk < n_chunks then
    redis.call('HSET', record, 'n_fed', chunk + 1)
    redis.call('ZADD', '{FED}', ARGV[1], id .. '.' .. chunk)
    return {{id, chunk, found[4] or ''}}
  end
end
return nil
"""
