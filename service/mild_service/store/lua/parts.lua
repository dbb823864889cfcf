-- An epoch's record and those of its shards, at one instant. KEYS: epochs, shards. ARGV: epoch, how many shards.
local found = {redis.call('HGET', KEYS[1], ARGV[1])}
for shard = 0, tonumber(ARGV[2]) - 1 do
  found[shard + 2] = redis.call('HGET', KEYS[2], ARGV[1] .. ':' .. shard)
end
return found
