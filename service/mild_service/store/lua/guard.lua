-- Prepended to the other scripts. Returns why a write may not go on, or nil.
-- run: key of the run's record; attempt: '' when the caller does not say.
local function refusal(run, uid, attempt, round, now)
  local r = redis.call('HMGET', run, 'uid', 'attempt', 'round', 'deleting', 'expires')
  if r[1] ~= uid or r[4] or tonumber(r[5]) <= tonumber(now) then return {'gone'} end
  if round ~= '' and tonumber(round) < tonumber(r[3]) then return {'finished', r[3]} end
  if round ~= '' and tonumber(round) > tonumber(r[3]) then return {'unopened', r[3]} end
  if attempt ~= '' and attempt ~= r[2] then return {'stale', r[2]} end
  return nil
end

local function touch(run, now)
  local ttl = tonumber(redis.call('HGET', run, 'ttl'))
  redis.call('HSET', run, 'updated', now, 'expires', string.format('%.0f', tonumber(now) + ttl * 1000))
end

-- Writes chunks >= 1 of a field, where they come along: their keys stand behind the script's own, their bytes behind
-- chunk 0's. own: how many keys are the script's; field: where the field's name stands in ARGV.
local function spread(own, field)
  for i = own + 1, #KEYS do redis.call('HSET', KEYS[i], ARGV[field], ARGV[field + 1 + i - own]) end
end

-- Takes an epoch off the books, with chunk 0 of its bits and of its shards'.
-- Record: attempt:digest:planes:n_correct:n_observed:kind:state:in/of; a shard's begins with its name.
local function forget(epochs, chunk, shards, epoch)
  local old = redis.call('HGET', epochs, epoch)
  local attempt, digest = string.match(old, '^(%d+):(%x+):')
  redis.call('HDEL', chunk, epoch .. ':' .. attempt .. ':' .. digest)
  redis.call('HDEL', epochs, epoch)
  for shard = 0, tonumber(string.match(old, '/(%d+)$') or '0') - 1 do
    local field = epoch .. ':' .. shard
    local held = redis.call('HGET', shards, field)
    if held then
      redis.call('HDEL', chunk, field .. ':' .. string.match(held, '^%x+'))
      redis.call('HDEL', shards, field)
    end
  end
end
