-- Deletes fields of a hash that no record names, if nobody has touched the hash for a while: a field may be on its way
-- to being named. What is looked at and what is deleted is of one instant.
-- KEYS: hash. ARGV: seconds, '1' to delete, prefix of fields that stay or '', then fields that stay.
local idle = redis.pcall('OBJECT', 'IDLETIME', KEYS[1])
if type(idle) ~= 'number' or idle < tonumber(ARGV[1]) then return {'0'} end
local kept, stray = {}, {}
for i = 4, #ARGV do kept[ARGV[i]] = true end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if not kept[field] and (ARGV[3] == '' or string.sub(field, 1, #ARGV[3]) ~= ARGV[3]) then stray[#stray + 1] = field end
end
if ARGV[2] == '1' then
  for _, field in ipairs(stray) do redis.call('HDEL', KEYS[1], field) end
end
return {tostring(#stray)}
