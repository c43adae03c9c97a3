// A client of an event stream, for tests/real_clients.rs: `node client.mjs LIBRARY URL NAMES`, where
// NAMES is a JSON list of the events that an EventSource listens for. Prints one JSON object for each
// thing that happens, and nothing else.
import { EventSource } from 'eventsource';
import { createParser } from 'eventsource-parser';

const [library, url, names] = process.argv.slice(2);
const say = (kind, more = {}) => process.stdout.write(JSON.stringify({ kind, ...more }) + '\n');

if (library === 'eventsource') {
  const source = new EventSource(url);
  source.onopen = () => say('open');
  source.onerror = (event) => say('error', { code: event.code ?? 0, closed: source.readyState === 2 });
  for (const name of JSON.parse(names)) {
    source.addEventListener(name, (event) =>
      say('event', { name: event.type, id: event.lastEventId, data: event.data }),
    );
  }
} else if (library === 'eventsource-parser') {
  const answer = await fetch(url, { headers: { accept: 'text/event-stream' } });
  say('open');
  const parser = createParser({
    onEvent: ({ event = 'message', id = '', data }) => say('event', { name: event, id, data }),
    onRetry: (ms) => say('retry', { ms }),
    onError: (error) => say('error', { what: error.message }),
  });
  const decoder = new TextDecoder();
  for await (const part of answer.body) parser.feed(decoder.decode(part, { stream: true }));
} else {
  throw Error(`no library ${library}`);
}
