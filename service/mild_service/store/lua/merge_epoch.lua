-- Replaces an epoch by its merged content, if its record is still the one that the caller has merged.
-- Without field and bytes it only checks, and returns 'clear' if it would merge.
-- KEYS: run, round, epochs, chunk 0, shards, events.
-- ARGV: uid, attempt or '', round, now, epoch, old record or '', new record, members that the merge was based on or '*',
--       fields of chunk 0 that were merged and are deleted, separated by spaces, sample ids that the merge used or '*',
--       labels that the log was compared with or '*'; field, bytes of chunk 0.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
if (redis.call('HGET', KEYS[3], ARGV[5]) or '') ~= ARGV[6] then return {'moved'} end
if ARGV[8] ~= '*' and redis.call('HGET', KEYS[2], 'members') ~= ARGV[8] then return {'moved'} end
if ARGV[10] ~= '*' and (redis.call('HGET', KEYS[1], 'ids') or '') ~= ARGV[10] then return {'renamed'} end
if ARGV[11] ~= '*' and (redis.call('HGET', KEYS[1], 'labels') or '') ~= ARGV[11] then return {'moved'} end
if not ARGV[12] then return {'clear'} end
for field in string.gmatch(ARGV[9], '%S+') do redis.call('HDEL', KEYS[4], field) end
redis.call('HSET', KEYS[4], ARGV[12], ARGV[13])
write_other_chunks(6, 12)
redis.call('HSET', KEYS[3], ARGV[5], ARGV[7])
record_change(KEYS[2], KEYS[3])
extend_ttl(KEYS[1], ARGV[4])
append_event(KEYS[1], KEYS[6], ARGV[4], string.find(ARGV[7], ':partial:') and 'epoch-partial' or 'epoch-committed',
  'round', ARGV[3], 'epoch', ARGV[5], 'record', ARGV[7],
  'members', redis.call('HGET', KEYS[2], 'members'), 'outcome', 'committed')
return {'merged'}
