-- Extends or releases a lock that the caller still owns. KEYS: lock. ARGV: owner, milliseconds (0 releases).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'gone'} end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {'set'}
