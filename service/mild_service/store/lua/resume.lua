-- Drops the open round's epochs from one on and begins a new attempt.
-- KEYS: run, round, epochs, chunk 0, metrics, events. ARGV: uid, round, now, epoch.
local no = refusal(KEYS[1], ARGV[1], '', ARGV[2], ARGV[3])
if no then return no end
local from = tonumber(ARGV[4])
local dropped = 0
for _, epoch in ipairs(redis.call('HKEYS', KEYS[3])) do
  if tonumber(epoch) >= from then
    local attempt, digest = string.match(redis.call('HGET', KEYS[3], epoch), '^(%d+):(%x+):')
    redis.call('HDEL', KEYS[4], epoch .. ':' .. attempt .. ':' .. digest)
    redis.call('HDEL', KEYS[3], epoch)
    dropped = dropped + 1
  end
end
for _, epoch in ipairs(redis.call('HKEYS', KEYS[5])) do
  if tonumber(epoch) >= from then redis.call('HDEL', KEYS[5], epoch) end
end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HINCRBY', KEYS[2], 'version', 1)
touch(KEYS[1], ARGV[3])
tell(KEYS[1], KEYS[6], ARGV[3], 'run-resumed', 'round', ARGV[2], 'epoch', ARGV[4], 'attempt', attempt, 'dropped', dropped)
return {'resumed', tostring(attempt), tostring(dropped)}
