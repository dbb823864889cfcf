-- Reads the records of an epoch and of its shards atomically. KEYS: epochs, shards. ARGV: epoch, number of shards.
local records = {redis.call('HGET', KEYS[1], ARGV[1])}
for shard = 0, tonumber(ARGV[2]) - 1 do
  records[shard + 2] = redis.call('HGET', KEYS[2], ARGV[1] .. ':' .. shard)
end
return records
