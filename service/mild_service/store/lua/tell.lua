-- Prepended to every script. Appends an event to the run's stream, with the change that it tells of: all or nothing.
-- run: key of the run's record, which numbers its events; events: key of the stream, by habit the last of KEYS;
-- kind: as `state.EventKind`; then pairs of field and value, as `store.events` reads them.
local function tell(run, events, now, kind, ...)
  local number = redis.call('HINCRBY', run, 'events', 1)
  redis.call('XADD', events, 'MAXLEN', events_kept, string.format('%.0f-0', number), 'kind', kind, 'at', now, ...)
end

