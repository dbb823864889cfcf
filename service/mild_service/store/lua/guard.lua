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
