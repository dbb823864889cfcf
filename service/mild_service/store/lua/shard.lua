-- Keeps one shard of an epoch, chunk 0 of it and its record. When all are in, the caller merges them.
-- Without field and bytes it changes nothing, and answers 'clear' where it would keep the shard.
-- KEYS: run, round, epochs, chunk 0, shards, events.
-- ARGV: uid, attempt, round, now, epoch, shard, of how many, digest, n_correct, n_observed, shard record, '1' to replace,
--       field, bytes of chunk 0.
local no = refusal(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if no then return no end
local place = ARGV[5] .. ':' .. ARGV[6]
local old = redis.call('HGET', KEYS[3], ARGV[5])
local held, anew = nil, true
if old then
  local kind, state, of = string.match(old, ':(%a+):(%a+):%d*/?(%d*)$')
  if kind == 'shards' and of == ARGV[7] then
    held = redis.call('HGET', KEYS[5], place)
    if held and string.match(held, '^%x+:(%x+):') == ARGV[8] then return {'same', old} end
    if ARGV[12] ~= '1' and (held or state == 'committed') then return {'conflict', old, held or ''} end
    anew = state == 'committed'
  elseif ARGV[12] ~= '1' then
    return {'kind', old}
  end
end
if not ARGV[13] then return {'clear'} end
local correct, observed, n_in = tonumber(ARGV[9]), tonumber(ARGV[10]), 1
if old and anew then
  forget(KEYS[3], KEYS[4], KEYS[5], ARGV[5])
elseif old then
  local c, o, n = string.match(old, '^%d+:%x+:%d+:(%d+):(%d+):.*:(%d+)/')
  correct, observed, n_in = correct + c, observed + o, n + 1
  if held then
    c, o = string.match(held, ':(%d+):(%d+)$')
    correct, observed, n_in = correct - c, observed - o, n_in - 1
    redis.call('HDEL', KEYS[4], place .. ':' .. string.match(held, '^%x+'))
  end
end
redis.call('HSET', KEYS[4], ARGV[13], ARGV[14])
spread(6, 13)
redis.call('HSET', KEYS[5], place, ARGV[11])
-- The digest of what is partial names no bits: it tells whoever merges whether all is as it was read.
local digest = string.sub(redis.sha1hex((old or '') .. ARGV[11]), 1, 32)
local record = string.format('%s:%s:2:%d:%d:shards:partial:%d/%s', ARGV[2], digest, correct, observed, n_in, ARGV[7])
redis.call('HSET', KEYS[3], ARGV[5], record)
redis.call('HINCRBY', KEYS[2], 'version', 1)
touch(KEYS[1], ARGV[4])
tell(KEYS[1], KEYS[6], ARGV[4], 'epoch-partial', 'round', ARGV[3], 'epoch', ARGV[5], 'record', record,
  'members', redis.call('HGET', KEYS[2], 'members'), 'outcome', 'committed')
return {(held or (old and anew)) and 'replaced' or 'stored', record}
