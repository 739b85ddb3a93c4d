-- Goes before what gives back the memory of a query's pictures.
local function release(sent, sent_until, task)
  local n_bytes = redis.call('HGET', sent, task)
  if n_bytes and redis.call('HINCRBY', sent, 'all', -n_bytes) == 0 then
    redis.call('HDEL', sent, 'all')
  end
  redis.call('HDEL', sent, task)
  redis.call('ZREM', sent_until, task)
end

