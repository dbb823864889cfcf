-- Deletes the open round's epochs from a given one on and starts a new attempt: the run is running again.
-- KEYS: run, round, epochs, chunk 0, shards, events, metrics. ARGV: uid, '', round, now, epoch.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
local from = tonumber(ARGV[5])
local dropped = 0
for _, epoch in ipairs(redis.call('HKEYS', KEYS[3])) do
  if tonumber(epoch) >= from then
    delete_epoch(KEYS[3], KEYS[4], KEYS[5], epoch)
    dropped = dropped + 1
  end
end
for _, epoch in ipairs(redis.call('HKEYS', KEYS[7])) do
  if tonumber(epoch) >= from then redis.call('HDEL', KEYS[7], epoch) end
end
redis.call('HSET', KEYS[1], 'status', 'running')
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
record_change(KEYS[2], KEYS[3])
extend_ttl(KEYS[1], ARGV[4])
append_event(KEYS[1], KEYS[6], ARGV[4], 'run-resumed', 'round', ARGV[3], 'epoch', ARGV[5], 'attempt', attempt,
  'dropped', dropped)
return {'resumed', tostring(attempt), tostring(dropped)}
