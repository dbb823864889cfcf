-- Refers to new labels or a new audit from the run's record, if its reference is still the one the caller has read.
-- Without field and bytes it only checks, and returns 'clear' if it would write.
-- KEYS: run, epochs of round 0, chunk 0, events; then chunks >= 1, if they are passed.
-- ARGV: uid, '', '', now, name in the record, old reference or '', old field or '', new reference,
--       '1' if the first epoch fixes it, name of the annotation that states the same or '', its reference that was compared
--       or '' if none was; field, bytes of chunk 0.
local refusal = check_run(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if refusal then return refusal end
if (redis.call('HGET', KEYS[1], ARGV[5]) or '') ~= ARGV[6] then return {'moved'} end
local has_epochs = redis.call('HGET', KEYS[1], 'round') ~= '0' or redis.call('HLEN', KEYS[2]) > 0
if ARGV[9] == '1' and ARGV[6] ~= '' and has_epochs then return {'frozen'} end
-- Labels of logs count only once epochs of these logs are stored; what was not compared must not count by now.
if ARGV[10] ~= '' and (redis.call('HGET', KEYS[1], ARGV[10]) or '') ~= ARGV[11] and (ARGV[10] == 'labels' or has_epochs)
  then return {'moved'} end
if not ARGV[12] then return {'clear'} end
if ARGV[7] ~= '' then
  redis.call('HDEL', KEYS[3], ARGV[7])
  for i = 5, #KEYS do redis.call('HDEL', KEYS[i], ARGV[7]) end
end
redis.call('HSET', KEYS[3], ARGV[12], ARGV[13])
write_other_chunks(4, 12)
redis.call('HSET', KEYS[1], ARGV[5], ARGV[8])
extend_ttl(KEYS[1], ARGV[4])
if ARGV[5] ~= 'logged_labels' then append_event(KEYS[1], KEYS[4], ARGV[4], ARGV[5] .. '-changed') end
return {'set'}
