// What a page finds in a browser, scripted: sockets and sources that a test speaks for, a clock that it moves.

let now, timers;
export const sockets = [];
export const sources = [];

function later(act, ms, again) {
  timers.push({ act, at: now + ms, again });
  return timers.at(-1);
}

/** Let time pass, timer after timer. */
export function pass(ms) {
  const end = now + ms;
  for (;;) {
    const next = timers.filter(({ at }) => at <= end).sort((one, other) => one.at - other.at)[0];
    if (!next) break;
    now = next.at;
    if (next.again) next.at += next.again;
    else timers.splice(timers.indexOf(next), 1);
    next.act();
  }
  now = end;
}

export class Socket {
  static OPEN = 1;
  readyState = 1;
  sent = [];
  closed = null;
  constructor(url) {
    this.url = url;
    sockets.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close(code) {
    this.readyState = 2; // its end may come late, or never
    this.closed = code ?? "no code";
  }
  says(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }
  of(type) {
    return this.sent.filter((frame) => frame.type === type);
  }
}

export class Source extends EventTarget {
  static CLOSED = 2;
  readyState = 1;
  constructor(url) {
    super();
    this.url = new URL(url);
    sources.push(this);
  }
  close() {
    this.readyState = 2;
  }
  says(name, data, lastEventId = "") {
    this.dispatchEvent(Object.assign(new Event(name), { data: JSON.stringify(data), lastEventId }));
  }
}

/** Everything anew; before each test. */
export function begin() {
  [now, timers, sockets.length, sources.length] = [1_000_000, [], 0, 0];
  globalThis.WebSocket = Socket;
  globalThis.EventSource = Source;
  globalThis.setTimeout = (act, ms, ...given) => later(() => act(...given), ms);
  globalThis.setInterval = (act, ms) => later(act, ms, ms);
  globalThis.clearTimeout = (timer) => timers.includes(timer) && timers.splice(timers.indexOf(timer), 1);
  performance.now = () => now;
}
