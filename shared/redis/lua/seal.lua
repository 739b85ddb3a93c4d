-- Records that an upload, or a library, was read to its end, or that it broke. Only the first time
-- counts: the sweeper may have found an upload lost just before it ended.
-- ARGV 6: now. 7: the problem that broke it as JSON, or ''. 8: how many files were passed over.
-- Returns whether it was the first time.
local moment, problem, n_passed_over = ARGV[6], ARGV[7], ARGV[8]

if not is_open or get('total') then return 0 end
redis.call('HSET', record, 'total', get('received'), 'passed_over', n_passed_over)
redis.call('SREM', arriving, get('id'))
forget_task()
if problem ~= '' then redis.call('HSET', record, 'upload_error', problem) end
end_if_all_is_counted(moment, '')
announce(-1, 0)
return 1
