-- Notes that a part of a job has begun. Of a job that has ended, nothing is noted: it has no tries.
-- ARGV 6: the part.
-- Returns the number of this try.
if not is_open then return 1 end
return redis.call('HINCRBY', tries, ARGV[6], 1)
