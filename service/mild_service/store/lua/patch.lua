-- Changes fields of the run's record. KEYS: run, events. ARGV: uid, now, names told, then pairs of field and value.
local no = refusal(KEYS[1], ARGV[1], '', '', ARGV[2])
if no then return no end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
touch(KEYS[1], ARGV[2])
if ARGV[3] ~= '' then tell(KEYS[1], KEYS[2], ARGV[2], 'run-patched', 'changed', ARGV[3]) end
return {'set'}
