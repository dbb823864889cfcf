-- Reads rounds atomically. KEYS: the record, epochs and metrics of each round.
local replies = {}
for i, key in ipairs(KEYS) do replies[i] = redis.call('HGETALL', key) end
return replies
