-- Sets the members or the planted samples (mislabelled on purpose) of the open round, before its first epoch. The same
-- planted samples are accepted at any time.
-- Without field and bytes it only checks, and returns 'clear' if it would set them.
-- KEYS: run, round, epochs, chunk 0, shards, events.
-- ARGV: uid, attempt, round, now, 'members' or 'planted', record ('' for all members or no planted samples), field,
--       bytes of chunk 0.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[5] == 'members' and ARGV[3] or '', ARGV[4])
if refusal then return refusal end
local old = redis.call('HGET', KEYS[2], ARGV[5]) or ''
if string.match(old, ':(%x+):') == string.match(ARGV[6], ':(%x+):') then return {'same'} end
refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
local epochs = redis.call('HLEN', KEYS[3])
if epochs > 0 then return {'frozen', tostring(epochs)} end
if not ARGV[7] then return {'clear'} end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[4], ARGV[7], ARGV[8])
  write_other_chunks(6, 7)
end
redis.call('HSET', KEYS[2], ARGV[5], ARGV[6])
redis.call('HINCRBY', KEYS[2], 'version', 1)
extend_ttl(KEYS[1], ARGV[4])
append_event(KEYS[1], KEYS[6], ARGV[4], ARGV[5] .. '-set', 'round', ARGV[3], ARGV[5], ARGV[6])
return {'set'}
