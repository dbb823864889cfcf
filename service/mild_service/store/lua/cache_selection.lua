-- Stores fields of a computed selection with an expiry, atomically: a crash leaves nothing without an expiry.
-- KEYS: cache, set of cached digests, run. ARGV: seconds, digest, uid, then pairs of field and value.
local r = redis.call('HMGET', KEYS[3], 'uid', 'deleting')
if r[1] ~= ARGV[3] or r[2] then return {'gone'} end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('SADD', KEYS[2], ARGV[2])
for i = 1, 2 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return {'set'}
