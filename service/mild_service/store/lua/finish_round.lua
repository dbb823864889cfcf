-- Freezes the open round with its selection and opens the next, if the round has not changed since it was read.
-- Without field and bytes it only checks, and returns 'clear' if it would freeze the round.
-- Epochs that are partial and come from logs are committed as they are.
-- KEYS: run, round, epochs, chunk 0, shards, events, next round.
-- ARGV: uid, attempt or '', round, now, version, set record, selection, fit, next round, members of the next round,
--       field, bytes of chunk 0.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
if redis.call('HGET', KEYS[2], 'version') ~= ARGV[5] then return {'moved'} end
if not ARGV[11] then return {'clear'} end
redis.call('HSET', KEYS[4], ARGV[11], ARGV[12])
write_other_chunks(7, 11)
redis.call('HSET', KEYS[2], 'state', 'finished', 'finished', ARGV[4], 'set', ARGV[6], 'selection', ARGV[7],
  'fit', ARGV[8])
for _, epoch in ipairs(redis.call('HKEYS', KEYS[3])) do
  local record, n = string.gsub(redis.call('HGET', KEYS[3], epoch), ':logs:partial:', ':logs:committed:')
  if n > 0 then
    redis.call('HSET', KEYS[3], epoch, record)
    append_event(KEYS[1], KEYS[6], ARGV[4], 'epoch-committed', 'round', ARGV[3], 'epoch', epoch, 'record', record,
      'members', redis.call('HGET', KEYS[2], 'members'), 'outcome', 'committed')
  end
end
redis.call('HSET', KEYS[7], 'state', 'open', 'version', '0', 'members', ARGV[10], 'opened', ARGV[4])
redis.call('HSET', KEYS[1], 'round', ARGV[9], 'n_finished', ARGV[9])
extend_ttl(KEYS[1], ARGV[4])
append_event(KEYS[1], KEYS[6], ARGV[4], 'round-finished', 'round', ARGV[3], 'selection', ARGV[7])
return {'set'}
