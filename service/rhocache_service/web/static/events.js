// A job's events as they happen, from a number on. A stream holds one of the few connections that a
// browser has for all its tabs: it is closed while the page is hidden, and goes on where it was.
const RETRY = 2000; // milliseconds

export async function follow(url, last, onEvent) {
  for (;;) {
    if (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    if (document.hidden) continue;
    const closed = new AbortController();
    const hide = () => document.hidden && closed.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      const answer = await fetch(url, { headers: { "Last-Event-ID": String(last) }, signal: closed.signal });
      if ([401, 403, 404].includes(answer.status)) return location.reload(); // which tells why
      if (answer.ok) {
        for await (const event of eventsIn(answer.body)) {
          last = event.id;
          onEvent(event);
        }
      }
    } catch (error) {
      if (closed.signal.aborted) continue; // hidden, and wanted again
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
    if (onEvent(null)) return; // the stream has ended, or was lost
    await new Promise((after) => setTimeout(after, RETRY));
  }
}

async function* eventsIn(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value.replaceAll("\r", "");
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const event = {};
      for (const line of part.split("\n")) {
        const colon = line.indexOf(": ");
        if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 2);
      }
      if (event.id) yield { id: Number(event.id), kind: event.event, data: JSON.parse(event.data) };
    }
  }
}
