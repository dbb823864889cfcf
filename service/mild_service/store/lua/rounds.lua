-- Rounds as they stand at one instant. KEYS: of each round its record, epochs and metrics.
local found = {}
for i, key in ipairs(KEYS) do found[i] = redis.call('HGETALL', key) end
return found
