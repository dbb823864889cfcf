-- Refers to uploaded external ids from the run's record, if its reference is still the one that the caller has read.
-- KEYS: run, epochs of round 0. ARGV: uid, '', '', now, old reference or '', new reference.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
if (redis.call('HGET', KEYS[1], 'ids') or '') ~= ARGV[5] then return {'moved'} end
if ARGV[5] ~= '' and (redis.call('HGET', KEYS[1], 'round') ~= '0' or redis.call('HLEN', KEYS[2]) > 0)
  then return {'frozen'} end
redis.call('HSET', KEYS[1], 'ids', ARGV[6])
extend_ttl(KEYS[1], ARGV[4])
return {'set'}
