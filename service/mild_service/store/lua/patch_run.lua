-- Changes fields of the run's record.
-- KEYS: run, events. ARGV: uid, now, names for the event, then pairs of field and value.
local refusal = check_run(KEYS[1], ARGV[1], '', '', ARGV[2])
if refusal then return refusal end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
extend_ttl(KEYS[1], ARGV[2])
if ARGV[3] ~= '' then append_event(KEYS[1], KEYS[2], ARGV[2], 'run-patched', 'changed', ARGV[3]) end
return {'set'}
