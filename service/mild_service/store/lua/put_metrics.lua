-- Stores an epoch's scalars in the open round.
-- KEYS: run, metrics, events. ARGV: uid, attempt, round, now, epoch, JSON, '1' to replace, JSON with its checksum.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
local old = redis.call('HGET', KEYS[2], ARGV[5])
if old == ARGV[8] then return {'same'} end
if old and ARGV[7] ~= '1' then return {'conflict', old} end
redis.call('HSET', KEYS[2], ARGV[5], ARGV[8])
extend_ttl(KEYS[1], ARGV[4])
append_event(KEYS[1], KEYS[3], ARGV[4], 'metrics-posted', 'round', ARGV[3], 'epoch', ARGV[5], 'metrics', ARGV[6])
return {old and 'replaced' or 'committed'}
