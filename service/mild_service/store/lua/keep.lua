-- Keeps fields for a while, in one step: a crash leaves nothing that stays for ever.
-- KEYS: cache, digests that are cached. ARGV: seconds, digest, then pairs of field and value.
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('SADD', KEYS[2], ARGV[2])
for i = 1, 2 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return {'set'}
