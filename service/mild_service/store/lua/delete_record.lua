-- Deletes the record of a run that is marked as deleted. KEYS: run. ARGV: uid.
local r = redis.call('HMGET', KEYS[1], 'uid', 'deleting')
if r[1] == ARGV[1] and r[2] then redis.call('DEL', KEYS[1]) end
return {'set'}
