-- Ends a job without the rest of its work, unless that must be done.
-- ARGV 6: now. 7: the problem as JSON for which it fails, or '' where it is cancelled.
-- Returns whether the job has ended so, or was cancelled before.
local moment, problem = ARGV[6], ARGV[7]

if status == 'cancelled' then return 1 end
if not is_open or must_be_done() then return 0 end
finish(problem == '' and 'cancelled' or 'failed', moment, problem)
announce(-1, 0)
return 1
