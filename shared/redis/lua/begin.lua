-- Marks a job as running.
-- ARGV 6: now. 7: the part of it that is tried, or ''.
-- Returns 0 if there is nothing (more) to do for it, or its deadline has passed: then the sweeper ends
--   it; else the number of this try, or 1.
local moment, part = ARGV[6], ARGV[7]

if not is_open then return 0 end
local deadline = get('deadline_at')
if deadline and tonumber(deadline) < tonumber(moment) and not must_be_done() then return 0 end
if status == 'queued' then
  redis.call('HSET', record, 'status', 'running', 'started_at', moment)
  announce(-1, 0)
end
if part == '' then return 1 end
return redis.call('HINCRBY', tries, part, 1)
