-- Ends a job that is not counted in chunks. Once ended, it stays as it is.
-- KEYS 12, if there is a result: where it goes.
-- ARGV 6: the status. 7: now. 8: the problem as JSON, or ''. 9, with KEYS 12: the result.
-- Returns whether this ended the job.
local result_key = KEYS[12]
local ended_as, moment, problem, result = unpack(ARGV, 6, 9)

if not is_open then return 0 end
if result_key then redis.call('SET', result_key, result, 'EX', get('ttl_s')) end
finish(ended_as, moment, problem)
announce(-1, 0)
return 1
