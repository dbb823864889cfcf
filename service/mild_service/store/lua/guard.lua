-- Prepended to every script that writes: functions that check and change a run. Those that check it with `check_run` get
-- uid, attempt or '', round or '', and the time as their first arguments (`StoreContext.change_run`).

-- Returns the reason why a write is refused, or nil.
-- run: key of the run's record; attempt, round: '' accepts any.
local function check_run(run, uid, attempt, round, now)
  local r = redis.call('HMGET', run, 'uid', 'attempt', 'round', 'deleting', 'expires')
  if r[1] ~= uid or r[4] or tonumber(r[5]) <= tonumber(now) then return {'gone'} end
  if round ~= '' and tonumber(round) < tonumber(r[3]) then return {'finished', r[3]} end
  if round ~= '' and tonumber(round) > tonumber(r[3]) then return {'unopened', r[3]} end
  if attempt ~= '' and attempt ~= r[2] then return {'stale', r[2]} end
  return nil
end

-- Sets the times of the last write and of expiry.
local function extend_ttl(run, now)
  local ttl = tonumber(redis.call('HGET', run, 'ttl'))
  redis.call('HSET', run, 'updated', now, 'expires', string.format('%.0f', tonumber(now) + ttl * 1000))
end

-- Counts a change of a round's epochs, and their records, by which a reader notices that one has been lost.
local function record_change(round, epochs)
  redis.call('HINCRBY', round, 'version', 1)
  redis.call('HSET', round, 'n_epochs', redis.call('HLEN', epochs))
end

-- Writes chunks >= 1 of a field, if they are passed: their keys follow the keys of the script itself, their bytes follow
-- those of chunk 0. own: number of keys of the script itself; field: index of the field's name in ARGV.
local function write_other_chunks(own, field)
  for i = own + 1, #KEYS do redis.call('HSET', KEYS[i], ARGV[field], ARGV[field + 1 + i - own]) end
end

-- Deletes the record of an epoch and of its shards, with chunk 0 of their bits.
-- Record: attempt:digest:planes:n_correct:n_observed:kind:state:in/of; a shard's record starts with its name.
local function delete_epoch(epochs, chunk, shards, epoch)
  local old = redis.call('HGET', epochs, epoch)
  local attempt, digest = string.match(old, '^(%d+):(%x+):')
  redis.call('HDEL', chunk, epoch .. ':' .. attempt .. ':' .. digest)
  redis.call('HDEL', epochs, epoch)
  for shard = 0, tonumber(string.match(old, '/(%d+)$') or '0') - 1 do
    local field = epoch .. ':' .. shard
    local shard_record = redis.call('HGET', shards, field)
    if shard_record then
      redis.call('HDEL', chunk, field .. ':' .. string.match(shard_record, '^%x+'))
      redis.call('HDEL', shards, field)
    end
  end
end
