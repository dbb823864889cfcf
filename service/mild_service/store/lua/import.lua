-- Makes a run that was put into the store field by field count, unless there is one of its name.
-- KEYS: run. ARGV: pairs of field and value.
if redis.call('EXISTS', KEYS[1]) == 1 then return {'exists'} end
for i = 1, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return {'set'}
