-- Points a field of the run's record at new content, if it still is what the caller has read.
-- Without field and bytes it changes nothing, and answers 'clear' where it would.
-- KEYS: run, epochs of round 0, chunk 0, events.
-- ARGV: uid, now, name in the record, old reference or '', old field or '', new reference,
--       '1' if fixed by the first epoch, field, bytes of chunk 0.
local no = refusal(KEYS[1], ARGV[1], '', '', ARGV[2])
if no then return no end
if (redis.call('HGET', KEYS[1], ARGV[3]) or '') ~= ARGV[4] then return {'moved'} end
if ARGV[7] == '1' and ARGV[4] ~= '' and (redis.call('HGET', KEYS[1], 'round') ~= '0' or redis.call('HLEN', KEYS[2]) > 0)
  then return {'frozen'} end
if not ARGV[8] then return {'clear'} end
if ARGV[5] ~= '' then redis.call('HDEL', KEYS[3], ARGV[5]) end
redis.call('HSET', KEYS[3], ARGV[8], ARGV[9])
redis.call('HSET', KEYS[1], ARGV[3], ARGV[6])
touch(KEYS[1], ARGV[2])
tell(KEYS[1], KEYS[4], ARGV[2], ARGV[3] .. '-changed')
return {'set'}
