-- Adds a stored chunk to the work, in its job's and its library's turn; repeating it changes nothing.
-- ARGV 6: its number, which is the number of those before it. 7: how many pictures it has.
-- Returns whether the job still accepts chunks.
local chunk, n_pictures = tonumber(ARGV[6]), ARGV[7]

if not is_open or get('total') then return 0 end
if chunk < number('n_chunks') then return 1 end
add('n_chunks', 1)
add('received', n_pictures)
redis.call('INCRBY', backlog, n_pictures)
if redis.call('HSETNX', record, 'in_ring', 1) == 1 then
  if redis.call('RPUSH', of_library(jobs_of), get('id')) == 1 then
    redis.call('RPUSH', ring, library_id())
  end
end
announce(-1, 0)
return 1
