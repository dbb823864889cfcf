-- Stores one shard of an epoch: its chunk 0 and its record. Once all shards are stored, the caller merges them.
-- Without field and bytes it only checks, and returns 'clear' if it would store the shard.
-- KEYS: run, round, epochs, chunk 0, shards, events.
-- ARGV: uid, attempt, round, now, epoch, shard, number of shards, digest, n_correct, n_observed, shard record,
--       '1' to replace, field, bytes of chunk 0.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
local field = ARGV[5] .. ':' .. ARGV[6]
local old = redis.call('HGET', KEYS[3], ARGV[5])
local old_shard, restart = nil, true
if old then
  local kind, state, of = string.match(old, ':(%a+):(%a+):%d*/?(%d*)$')
  if kind == 'shards' and of == ARGV[7] then
    old_shard = redis.call('HGET', KEYS[5], field)
    if old_shard and string.match(old_shard, '^%x+:(%x+):') == ARGV[8] then return {'same', old} end
    if ARGV[12] ~= '1' and (old_shard or state == 'committed') then return {'conflict', old, old_shard or ''} end
    restart = state == 'committed'
  elseif ARGV[12] ~= '1' then
    return {'kind', old}
  end
end
if not ARGV[13] then return {'clear'} end
local correct, observed, n_in = tonumber(ARGV[9]), tonumber(ARGV[10]), 1
if old and restart then
  delete_epoch(KEYS[3], KEYS[4], KEYS[5], ARGV[5])
elseif old then
  local c, o, n = string.match(old, '^%d+:%x+:%d+:(%d+):(%d+):.*:(%d+)/')
  correct, observed, n_in = correct + c, observed + o, n + 1
  if old_shard then
    c, o = string.match(old_shard, ':(%d+):(%d+)$')
    correct, observed, n_in = correct - c, observed - o, n_in - 1
    redis.call('HDEL', KEYS[4], field .. ':' .. string.match(old_shard, '^%x+'))
  end
end
redis.call('HSET', KEYS[4], ARGV[13], ARGV[14])
write_other_chunks(6, 13)
redis.call('HSET', KEYS[5], field, ARGV[11])
-- The digest of a partial epoch names no bits: by it a merge detects whether the epoch has changed.
local digest = string.sub(redis.sha1hex((old or '') .. ARGV[11]), 1, 32)
local record = string.format('%s:%s:2:%d:%d:shards:partial:%d/%s', ARGV[2], digest, correct, observed, n_in, ARGV[7])
redis.call('HSET', KEYS[3], ARGV[5], record)
record_change(KEYS[2], KEYS[3])
extend_ttl(KEYS[1], ARGV[4])
append_event(KEYS[1], KEYS[6], ARGV[4], 'epoch-partial', 'round', ARGV[3], 'epoch', ARGV[5], 'record', record,
  'members', redis.call('HGET', KEYS[2], 'members'), 'outcome', 'committed')
return {(old_shard or (old and restart)) and 'replaced' or 'stored', record}
