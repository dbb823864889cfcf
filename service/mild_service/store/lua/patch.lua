-- Changes fields of the run's record. KEYS: run. ARGV: uid, now, then pairs of field and value.
local no = refusal(KEYS[1], ARGV[1], '', '', ARGV[2])
if no then return no end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
touch(KEYS[1], ARGV[2])
return {'set'}
