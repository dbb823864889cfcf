-- Sets the planted samples (mislabelled on purpose) of round 0, before its first epoch. The same set is accepted at any
-- time.
-- Without field and bytes it only checks, and returns 'clear' if it would set them.
-- KEYS: run, round 0, epochs, chunk 0, shards, events.
-- ARGV: uid, attempt, now, planted record ('' for none), field, bytes.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], '', ARGV[3])
if refusal then return refusal end
local old = redis.call('HGET', KEYS[2], 'planted') or ''
if string.match(old, ':(%x+):') == string.match(ARGV[4], ':(%x+):') then return {'same'} end
local round = redis.call('HGET', KEYS[1], 'round')
if round ~= '0' then return {'finished', round} end
local epochs = redis.call('HLEN', KEYS[3])
if epochs > 0 then return {'frozen', tostring(epochs)} end
if not ARGV[5] then return {'clear'} end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[4], ARGV[5], ARGV[6])
  write_other_chunks(6, 5)
end
redis.call('HSET', KEYS[2], 'planted', ARGV[4])
redis.call('HINCRBY', KEYS[2], 'version', 1)
extend_ttl(KEYS[1], ARGV[3])
append_event(KEYS[1], KEYS[6], ARGV[3], 'planted-set', 'planted', ARGV[4])
return {'set'}
