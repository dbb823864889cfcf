-- Keeps fields for a while, in one step: a crash leaves nothing that stays for ever.
-- KEYS: cache. ARGV: seconds, then pairs of field and value.
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return {'set'}
