-- Sets whose label was broken on purpose in round 0, before its first epoch. The same again is taken at any time.
-- Without field and bytes it changes nothing, and answers 'clear' where it would set them.
-- KEYS: run, round 0, epochs, chunk 0, shards, events.
-- ARGV: uid, attempt, now, planted record ('' for nobody), field, bytes.
local no = refusal(KEYS[1], ARGV[1], ARGV[2], '', ARGV[3])
if no then return no end
local old = redis.call('HGET', KEYS[2], 'planted') or ''
if string.match(old, ':(%x+):') == string.match(ARGV[4], ':(%x+):') then return {'same'} end
local round = redis.call('HGET', KEYS[1], 'round')
if round ~= '0' then return {'finished', round} end
local epochs = redis.call('HLEN', KEYS[3])
if epochs > 0 then return {'frozen', tostring(epochs)} end
if not ARGV[5] then return {'clear'} end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[4], ARGV[5], ARGV[6])
  spread(6, 5)
end
redis.call('HSET', KEYS[2], 'planted', ARGV[4])
redis.call('HINCRBY', KEYS[2], 'version', 1)
touch(KEYS[1], ARGV[3])
tell(KEYS[1], KEYS[6], ARGV[3], 'planted-set', 'planted', ARGV[4])
return {'set'}
