-- Replaces the value of a field, or adds it, unless it has changed in the meantime. KEYS: hash.
-- ARGV: field, old value or '', new value.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return {'moved'} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return {'set'}
