-- Ends a job without the rest of its work. A removal that is one step cannot be halfway: once it has
-- begun, it is done.
-- ARGV 6: now.
-- Returns whether the job is cancelled, now or before.
if status == 'cancelled' then return 1 end
if not is_open then return 0 end
if get('kind') == 'delete' and not has_items() and status == 'running' then return 0 end
finish('cancelled', ARGV[6])
announce(-1, 0)
return 1
