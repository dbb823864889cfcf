-- Reads rounds atomically, without those that the caller has already.
-- KEYS: run; then the record, epochs and metrics of each round. ARGV: the tag of each round that the caller has, or ''.
-- Answers the tag of each round, followed by the three hashes if it differs. A finished round never changes; an open one
-- changes with the events and the time of the run's last write, which a failover cannot repeat as the version could be.
local run = redis.call('HMGET', KEYS[1], 'updated', 'events')
local replies = {}
for i = 1, #ARGV do
  local record = KEYS[3 * i - 1]
  local state = redis.call('HMGET', record, 'version', 'opened', 'finished')
  local last = state[3] or ((run[1] or '') .. ':' .. (run[2] or ''))
  local tag = (state[1] or '') .. ':' .. (state[2] or '') .. ':' .. last
  replies[i] = {tag}
  if tag ~= ARGV[i] then
    for j = 0, 2 do replies[i][j + 2] = redis.call('HGETALL', KEYS[3 * i - 1 + j]) end
  end
end
return replies
