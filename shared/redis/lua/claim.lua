-- Takes the webhook that has been due for longest, and makes it due again for the case that whoever
-- takes it dies.
-- KEYS: the line of a host.
-- ARGV: now; when it is due again.
-- Returns its job, or nothing.
local line = KEYS[1]
local moment, due_again = unpack(ARGV)

local job = redis.call('ZRANGEBYSCORE', line, '-inf', moment, 'LIMIT', 0, 1)[1]
if job then redis.call('ZADD', line, due_again, job) end
return job
