-- Sets the members of the open round, before its first epoch.
-- Without field and bytes it only checks, and returns 'clear' if it would set them.
-- KEYS: run, round, epochs, chunk 0, shards, events.
-- ARGV: uid, attempt, round, now, members record ('' for all samples), field, bytes.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
local old = redis.call('HGET', KEYS[2], 'members')
if string.match(old, ':(%x+):') == string.match(ARGV[5], ':(%x+):') then return {'same'} end
local epochs = redis.call('HLEN', KEYS[3])
if epochs > 0 then return {'frozen', tostring(epochs)} end
if not ARGV[6] then return {'clear'} end
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[4], ARGV[6], ARGV[7])
  write_other_chunks(6, 6)
end
redis.call('HSET', KEYS[2], 'members', ARGV[5])
redis.call('HINCRBY', KEYS[2], 'version', 1)
extend_ttl(KEYS[1], ARGV[4])
append_event(KEYS[1], KEYS[6], ARGV[4], 'members-set', 'round', ARGV[3], 'members', ARGV[5])
return {'set'}
