-- Freezes the open round with its set and opens the next, if nothing has changed since the set was computed.
-- KEYS: run, round, chunk 0, next round.
-- ARGV: uid, attempt or '', round, now, version, field, bytes of chunk 0, set record, selection, fit, next round,
--       members of the next round.
local no = refusal(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if no then return no end
if redis.call('HGET', KEYS[2], 'version') ~= ARGV[5] then return {'moved'} end
redis.call('HSET', KEYS[3], ARGV[6], ARGV[7])
redis.call('HSET', KEYS[2], 'state', 'finished', 'finished', ARGV[4], 'set', ARGV[8], 'selection', ARGV[9],
  'fit', ARGV[10])
redis.call('HSET', KEYS[4], 'state', 'open', 'version', '0', 'members', ARGV[12], 'opened', ARGV[4])
redis.call('HSET', KEYS[1], 'round', ARGV[11])
touch(KEYS[1], ARGV[4])
return {'set'}
