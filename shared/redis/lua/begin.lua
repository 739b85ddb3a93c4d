-- Marks a job as running.
-- KEYS 9, for a job of one task: its tries, of which this is one.
-- ARGV 6: now. 7, with KEYS 9: how long the tries are kept, in seconds.
-- Returns 0 if there is nothing (more) to do for it; else the number of this try, or 1.
local tries = KEYS[9]
local moment, tries_ttl_s = ARGV[6], ARGV[7]

if not is_open then return 0 end
if status == 'queued' then
  redis.call('HSET', record, 'status', 'running', 'started_at', moment)
  announce(-1, 0)
end
if not tries then return 1 end
local n_tries = redis.call('HINCRBY', tries, 'task', 1)
redis.call('EXPIRE', tries, tries_ttl_s)
return n_tries
