// Follows the server-sent events of a run with fetch, which unlike EventSource can start after a given event. A broken
// connection continues after the last event that was received.

const MIN_WAIT = 1000;
const MAX_WAIT = 30000;

/**
 * Call `onEvent({kind, data})` for each event after `lastId`, and `onState("live" | "waiting" | "gone")`.
 */
export async function follow(address, lastId, onEvent, onState) {
  let wait = MIN_WAIT;
  for (;;) {
    try {
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const response = await fetch(address, { headers, cache: "no-store" });
      if (response.status === 401 || response.status === 403 || response.status === 404) return onState("gone");
      if (!response.ok) throw new Error(`status ${response.status}`);
      onState("live");
      wait = MIN_WAIT;
      for await (const event of readEvents(response.body)) {
        if (event.id) lastId = event.id;
        onEvent(event);
        if (event.kind === "run-deleted") return onState("gone");
      }
    } catch {
      // reconnect below
    }
    onState("waiting");
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(2 * wait, MAX_WAIT);
  }
}

async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = parseEvent(block);
      if (event) yield event;
    }
  }
}

function parseEvent(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1).trimStart();
  }
  return fields.event && { kind: fields.event, id: fields.id, data: JSON.parse(fields.data ?? "null") };
}
