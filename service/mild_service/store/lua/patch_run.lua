-- Changes fields of the run's record.
-- KEYS: run, events. ARGV: uid, '', '', now, names for the event, then pairs of field and value.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
extend_ttl(KEYS[1], ARGV[4])
if ARGV[5] ~= '' then append_event(KEYS[1], KEYS[2], ARGV[4], 'run-patched', 'changed', ARGV[5]) end
return {'set'}
