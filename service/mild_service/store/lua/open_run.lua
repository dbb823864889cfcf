-- Creates a run and its round 0, unless the run exists.
-- KEYS: run, round 0, events. ARGV: now, uid, config, tags, ttl, status, expires, round to resume from or ''.
local r = redis.call('HMGET', KEYS[1], 'uid', 'deleting', 'expires')
if r[1] then
  if r[2] or tonumber(r[3]) <= tonumber(ARGV[1]) then return {'purge', r[1]} end
  return {'exists'}
end
if ARGV[8] ~= '' and ARGV[8] ~= '0' then return {'unopened', '0'} end
redis.call('HSET', KEYS[1], 'uid', ARGV[2], 'config', ARGV[3], 'tags', ARGV[4], 'ttl', ARGV[5], 'status', ARGV[6],
  'attempt', '1', 'round', '0', 'n_finished', '0', 'created', ARGV[1], 'updated', ARGV[1], 'expires', ARGV[7])
redis.call('HSET', KEYS[2], 'state', 'open', 'version', '0', 'members', '', 'opened', ARGV[1])
append_event(KEYS[1], KEYS[3], ARGV[1], 'run-opened')
return {'created'}
