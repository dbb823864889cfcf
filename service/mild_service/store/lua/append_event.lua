-- Prepended to every script that writes. Appends an event to the run's stream, atomically with the change it describes.
-- run: key of the run's record, which numbers its events; events: key of the stream;
-- kind: as `models.EventKind`; then pairs of field and value, as `store/event_store.py` reads them.
local function append_event(run, events, now, kind, ...)
  local number = redis.call('HINCRBY', run, 'events', 1)
  redis.call('XADD', events, 'MAXLEN', max_events, string.format('%.0f-0', number), 'kind', kind, 'at', now, ...)
end

