-- Puts what logs say of an epoch in the place of what the caller has merged it with, if that still stands there.
-- Without field and bytes it changes nothing, and answers 'clear' where it would merge.
-- KEYS: run, round, epochs, chunk 0, events.
-- ARGV: uid, attempt, round, now, epoch, old record or '', new record, members that decided what is complete,
--       field, bytes of chunk 0.
local no = refusal(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if no then return no end
if (redis.call('HGET', KEYS[3], ARGV[5]) or '') ~= ARGV[6] then return {'moved'} end
if redis.call('HGET', KEYS[2], 'members') ~= ARGV[8] then return {'moved'} end
if not ARGV[9] then return {'clear'} end
local attempt, digest = string.match(ARGV[6], '^(%d+):(%x+):')
if digest then redis.call('HDEL', KEYS[4], ARGV[5] .. ':' .. attempt .. ':' .. digest) end
redis.call('HSET', KEYS[4], ARGV[9], ARGV[10])
redis.call('HSET', KEYS[3], ARGV[5], ARGV[7])
redis.call('HINCRBY', KEYS[2], 'version', 1)
touch(KEYS[1], ARGV[4])
tell(KEYS[1], KEYS[5], ARGV[4], string.find(ARGV[7], ':partial$') and 'epoch-partial' or 'epoch-committed',
  'round', ARGV[3], 'epoch', ARGV[5], 'record', ARGV[7], 'members', ARGV[8], 'outcome', 'committed')
return {'merged'}
