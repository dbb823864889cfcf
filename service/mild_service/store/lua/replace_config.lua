-- Replaces a run's config by an equivalent one, unless it has changed in the meantime. KEYS: run. ARGV: old, new.
if redis.call('HGET', KEYS[1], 'config') ~= ARGV[1] then return {'moved'} end
redis.call('HSET', KEYS[1], 'config', ARGV[2])
return {'set'}
