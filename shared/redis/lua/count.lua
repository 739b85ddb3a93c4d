-- Stores the outcomes of a chunk, and adds them to the progress; repeating it changes nothing.
-- KEYS 12: where the outcomes go.
-- ARGV 6: the chunk. 7, 8, 9, 10: how many pictures succeeded, were updated, were skipped, failed.
--   11: now. 12: the problem of a single picture as JSON, or ''. 13: the outcomes. From 14 on, where
--   all failed, of each reason: its name, how many pictures it is of, and such a problem as JSON.
-- Returns 0 if it was counted before; 2 if it was the last of a job that has more to be done with its
--   library, as a new edition to be switched on; else 1.
--
-- The rate is an exponential moving average of n / dt over the chunks, dt being the time since the
-- one before. `Job.pictures_per_s` divides it by the weight that it has gathered.
local outcomes_key = KEYS[12]
local chunk, n_succeeded, n_updated, n_skipped, n_failed = unpack(ARGV, 6, 10)
local moment, problem, outcomes = unpack(ARGV, 11, 13)

redis.call('ZREM', fed, get('id') .. '.' .. chunk)
if not is_open then return 0 end
if redis.call('SETBIT', done, chunk, 1) == 1 then return 0 end
redis.call('SET', outcomes_key, outcomes, 'EX', get('ttl_s'))
local n = n_succeeded + n_updated + n_skipped + n_failed
add('succeeded', n_succeeded)
add('updated', n_updated)
add('skipped', n_skipped)
add('failed', n_failed)
add('n_chunks_done', 1)
for i = 14, #ARGV, 3 do
  add('n_failed_as:' .. ARGV[i], ARGV[i + 1])
  redis.call('HSETNX', record, 'failed_as:' .. ARGV[i], ARGV[i + 2])
end
local before = number('counted_at') > 0 and number('counted_at') or number('started_at')
local dt = math.max(tonumber(moment) - before, 0.001)
local fade = math.exp(-dt / rate_window_s)
local rate = number('rate') * fade + n / dt * (1 - fade)
redis.call('HSET', record, 'rate', tostring(rate), 'counted_at', moment)
if is_fed() then redis.call('DECRBY', backlog, n) end
end_if_all_is_counted(moment, get('kind') == 'embed' and problem or '')
announce(chunk, n_failed)
local kind = get('kind')
return is_counted() and (kind == 'reindex' or kind == 'reconcile') and 2 or 1
