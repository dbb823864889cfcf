-- Commits one epoch: writes the field of chunk 0 and the record that names it. Chunks >= 1 are passed too, or are
-- already written.
-- Without field and bytes it only checks, and returns 'clear' if it would commit.
-- KEYS: run, round, epochs, chunk 0, shards, events.
-- ARGV: uid, attempt, round, now, epoch, digest, commit record, '1' to replace,
--       members that the bits were checked against or '*',
--       precondition ('' none, '!' absent, '*' present, or digests separated by spaces), field, bytes of chunk 0.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
if ARGV[9] ~= '*' and redis.call('HGET', KEYS[2], 'members') ~= ARGV[9] then return {'moved'} end
local old = redis.call('HGET', KEYS[3], ARGV[5])
local digest = old and string.match(old, '^%d+:(%x+):')
if ARGV[10] == '!' and old then return {'unmet', old} end
if ARGV[10] ~= '' and ARGV[10] ~= '!' then
  local named = ARGV[10] == '*' or string.find(' ' .. ARGV[10] .. ' ', ' ' .. (digest or '') .. ' ', 1, true)
  if not old or not named then return {'unmet', old or ''} end
end
if old then
  if ARGV[8] ~= '1' and not string.find(old, ':whole:') then return {'kind', old} end
  if digest == ARGV[6] then return {'same', old} end
  if ARGV[8] ~= '1' then return {'conflict', old} end
end
if not ARGV[11] then return {'clear'} end
if old then delete_epoch(KEYS[3], KEYS[4], KEYS[5], ARGV[5]) end
redis.call('HSET', KEYS[4], ARGV[11], ARGV[12])
write_other_chunks(6, 11)
redis.call('HSET', KEYS[3], ARGV[5], ARGV[7])
record_change(KEYS[2], KEYS[3])
extend_ttl(KEYS[1], ARGV[4])
append_event(KEYS[1], KEYS[6], ARGV[4], 'epoch-committed', 'round', ARGV[3], 'epoch', ARGV[5], 'record', ARGV[7],
  'members', redis.call('HGET', KEYS[2], 'members'), 'outcome', old and 'replaced' or 'committed')
return {old and 'replaced' or 'committed'}
