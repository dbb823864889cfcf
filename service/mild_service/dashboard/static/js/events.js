// A run's events (server-sent): read with fetch, since that, unlike EventSource, can begin behind an event. When the
// connection breaks it goes on behind the last event that was seen.

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 30000;

/**
 * Call `onEvent({kind, data})` for each event behind `lastId`, and `onState("live" | "waiting" | "gone")`.
 */
export async function follow(address, lastId, onEvent, onState) {
  let wait = FIRST_WAIT;
  for (;;) {
    try {
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const answer = await fetch(address, { headers, cache: "no-store" });
      if (answer.status === 401 || answer.status === 403 || answer.status === 404) return onState("gone");
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      onState("live");
      wait = FIRST_WAIT;
      for await (const event of eventsOf(answer.body)) {
        if (event.id) lastId = event.id;
        onEvent(event);
        if (event.kind === "run-deleted") return onState("gone");
      }
    } catch {
      // come back below
    }
    onState("waiting");
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event) yield event;
    }
  }
}

function parsed(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1).trimStart();
  }
  return fields.event && { kind: fields.event, id: fields.id, data: JSON.parse(fields.data ?? "null") };
}
