-- Takes memory for the pictures of a query, if there is some.
-- KEYS 1: bytes by task, and in `all` their sum. 2: tasks, by when their pictures are gone.
-- ARGV 1: the task. 2: its bytes. 3: now. 4: when they are gone. 5: the most for all.
-- Returns whether it was taken.
for _, task in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])) do
  release(KEYS[1], KEYS[2], task)
end
if tonumber(ARGV[2]) == 0 then
  release(KEYS[1], KEYS[2], ARGV[1])
  return 1
end
local n_taken = tonumber(redis.call('HGET', KEYS[1], 'all') or 0)
if n_taken + tonumber(ARGV[2]) > tonumber(ARGV[5]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[1], 'all', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
return 1
