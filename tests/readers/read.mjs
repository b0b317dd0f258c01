// Follows one event stream with a library that people use, as docs/clients.md tells, and prints what it is given.
// node read.mjs LIBRARY URL TOKEN NAMES [NODE_MODULES]; each line of the output is {"name", "id", "data"}.
import { createRequire } from "node:module";

const [library, url, token, names, modules = import.meta.dirname] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const headers = { Authorization: `Bearer ${token}` };
const tell = (name, id, data) => {
  console.log(JSON.stringify({ name: name || "message", id: id ?? "", data }));
  if (name === "complete") setTimeout(() => process.exit(0));
};
const listen = (source) => {
  for (const name of names.split(",")) {
    source.addEventListener(name, (event) => tell(event.type, event.lastEventId, event.data));
  }
};
const withToken = (input, init) => fetch(input, { ...init, headers: { ...init?.headers, ...headers } });

async function fetchEventSource() {
  globalThis.window = globalThis;
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
  const over = new AbortController();
  await require("@microsoft/fetch-event-source").fetchEventSource(url, {
    headers,
    signal: over.signal,
    openWhenHidden: true, // or it leaves with every change of the tab
    onmessage({ event, id, data }) {
      tell(event, id, data);
      if (event === "complete") over.abort();
    },
    onclose() {
      throw new Error("again"); // an end is not the end: without this it stops for good
    },
    onerror() {}, // nothing given back: after the pause that the stream named
  });
}

async function eventSourceClient() {
  const { createEventSource } = require("eventsource-client");
  for await (const { event, id, data } of createEventSource({ url, headers })) tell(event, id, data);
}

const libraries = {
  "eventsource-2": () => listen(new (require("eventsource-2"))(url, { headers })),
  "eventsource-3": () => listen(new (require("eventsource-3").EventSource)(url, { fetch: withToken })),
  "eventsource-4": () => listen(new (require("eventsource-4").EventSource)(url, { fetch: withToken })),
  "eventsource-client": eventSourceClient,
  "fetch-event-source": fetchEventSource,
  "reconnecting-eventsource": () => {
    const Source = require("reconnecting-eventsource").default;
    const { EventSource } = require("eventsource-3");
    const to = new URL(url);
    to.searchParams.set("token", token);
    listen(new Source(to.href, { eventSourceClass: EventSource }));
  },
};
await libraries[library]();
