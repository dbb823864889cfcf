-- Creates the record of an imported run, whose other keys are written already, unless a run has the same name.
-- KEYS: run. ARGV: pairs of field and value.
if redis.call('EXISTS', KEYS[1]) == 1 then return {'exists'} end
for i = 1, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return {'set'}
