-- Counts, and optionally deletes, fields of a hash that no record names, if the hash has been idle for a while: a new
-- field is written shortly before its record. Checks and deletes atomically.
-- KEYS: hash. ARGV: seconds, '1' to delete, then fields to keep.
local idle = redis.pcall('OBJECT', 'IDLETIME', KEYS[1])
if type(idle) ~= 'number' or idle < tonumber(ARGV[1]) then return {'0'} end
local keep, stray = {}, {}
for i = 3, #ARGV do keep[ARGV[i]] = true end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if not keep[field] then stray[#stray + 1] = field end
end
if ARGV[2] == '1' then
  for _, field in ipairs(stray) do redis.call('HDEL', KEYS[1], field) end
end
return {tostring(#stray)}
