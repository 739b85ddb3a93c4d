-- Notes how many images a job has compared.
-- ARGV 6: how many.
-- Returns whether the job goes on.
if not is_open then return 0 end
redis.call('HSET', record, 'compared', ARGV[6])
announce(-1, 0)
return 1
