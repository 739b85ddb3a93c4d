-- Notes what became of a try to deliver a webhook. What two have tried, the first that was not in vain
-- settles.
-- KEYS: the line of its host, its job's record, the counts of deliveries.
-- ARGV: the job; the status now; why the try failed, or ''; and while it is pending, when the next
--   one is due.
local line, record, counts = unpack(KEYS)
local job, status, problem, due = unpack(ARGV)

if redis.call('HGET', record, 'webhook_status') ~= 'pending' then
  redis.call('ZREM', line, job)
  return
end
redis.call('HINCRBY', record, 'n_webhook_tries', 1)
redis.call('HINCRBY', record, 'revision', 1)
redis.call('HSET', record, 'webhook_status', status)
if problem ~= '' then redis.call('HSET', record, 'webhook_error', problem) end
if status == 'pending' then
  redis.call('ZADD', line, due, job)
  redis.call('HSET', record, 'webhook_at', due)
  redis.call('HINCRBY', counts, 'retried', 1)
else
  redis.call('ZREM', line, job)
  redis.call('HDEL', record, 'webhook_at')
  redis.call('HINCRBY', counts, status, 1)
end
