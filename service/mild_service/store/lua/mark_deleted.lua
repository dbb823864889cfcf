-- Marks a run as deleted, so that it is no longer found. KEYS: run. ARGV: uid, time by which it has expired or ''.
local r = redis.call('HMGET', KEYS[1], 'uid', 'deleting', 'expires')
if r[1] ~= ARGV[1] then return {'gone'} end
if ARGV[2] ~= '' and not r[2] and tonumber(r[3]) > tonumber(ARGV[2]) then return {'alive'} end
redis.call('HSET', KEYS[1], 'deleting', '1')
return {'set'}
