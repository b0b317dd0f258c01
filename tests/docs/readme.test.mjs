// The README's pages against a scripted WebSocket and EventSource, with a clock that the test moves.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, test } from "node:test";
import { begin, pass, Source, sockets, sources } from "../support/scripted_page.mjs";

const root = new URL("../../", import.meta.url);

/** What the JavaScript below a heading of a page calls `name`. */
function script(path, title, name) {
  const text = readFileSync(new URL(path, root), "utf8");
  const [, code] = /```js\n([^]*?)```/.exec(text.slice(text.indexOf(`# ${title}\n`)));
  return new Function(`${code}; return ${name};`)();
}

const follow = script("README.md", "An order in a browser", "follow");
const chat = script("README.md", "A chat room in a browser", "chat");

let shown, asked, tokens, kept;

const page = {
  gateways: ["http://one.example", "http://two.example"],
  orderId: "A-1",
  room: "lobby",
  show: (what) => shown.push(what),
  hide: () => shown.push("hidden"),
  askWhy: ({ code }) => asked.push(code),
  getToken: async () => tokens.shift()?.() ?? "secret",
};
const offline = () => { throw new Error("offline"); };

beforeEach(() => {
  begin();
  [shown, asked, tokens, kept] = [[], [], [], new Map()];
  globalThis.sessionStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
  globalThis.fetch = async () => { throw new Error("nobody there"); };
});

/** Until what was promised has happened. */
const settle = async () => { for (let turn = 0; turn < 50; turn += 1) await null; };

/** Let time pass in small steps, so that promises are kept on the way. */
async function wait(ms) {
  for (let gone = 0; gone < ms; gone += 500) {
    pass(500);
    await settle();
  }
}

async function join(socket, ack = {}) {
  socket.onopen();
  await settle();
  socket.says({ type: "connected", userId: "ann" });
  socket.says({ type: "ack", id: "join", success: true, position: "a-0", ...ack });
}

async function joined() {
  const room = chat(page);
  await join(sockets[0]);
  return { room, socket: sockets[0] };
}

const said = (socket) => socket.of("chat_message").map(({ text }) => text);
const acknowledge = (socket, number) => {
  const { id } = socket.of("chat_message").at(-1);
  socket.says({ type: "ack", id, messageId: `m${number}`, position: `a-${number}`, at: "" });
};

test("chat: the token travels in the first frame and not in the address", async () => {
  const { socket } = await joined();
  assert.equal(socket.url.href, "ws://one.example/ws");
  assert.deepEqual(socket.sent[0], { type: "authenticate", token: "secret" });
});

test("chat: a message that is refused for now is said again before those behind it", async () => {
  const { room, socket } = await joined();
  for (const text of ["first", "second", "third"]) room.say(text);
  socket.says({ type: "error", id: socket.of("chat_message")[0].id, code: "rate_limited" });
  await wait(4_000);
  for (const number of [1, 2, 3]) acknowledge(socket, number);
  assert.deepEqual(said(socket), ["first", "first", "second", "third"]);
  assert.deepEqual(shown.map(({ text }) => text), ["first", "second", "third"]);
});

test("chat: an answer that comes twice, and an error about something else, say nothing again", async () => {
  const { room, socket } = await joined();
  for (const text of ["first", "second"]) room.say(text);
  const { id } = socket.of("chat_message")[0];
  for (const _ of [1, 2]) socket.says({ type: "ack", id, messageId: "m1", position: "a-1", at: "" });
  socket.says({ type: "error", code: "rate_limited" });
  socket.says({ type: "error", id: "other", code: "invalid_request" });
  socket.says({ type: "pong" });
  await wait(5_000);
  assert.deepEqual(said(socket), ["first", "second"]);
  assert.equal(shown.length, 1);
});

test("chat: what is said on a dead connection is said on the next gateway within 20 seconds", async () => {
  const { room, socket } = await joined();
  room.say("hello?");
  await wait(15_500);
  assert.equal(socket.of("ping").length, 1);
  assert.equal(socket.closed, 4900); // 1000, or no code, would say that the user left
  await wait(2_000);
  assert.equal(sockets[1].url.host, "two.example");
  await join(sockets[1], { recovered: true });
  assert.deepEqual(said(sockets[1]), ["hello?"]);
});

test("chat: an acknowledgement that got lost on a connection that lives is asked for again", async () => {
  const { room, socket } = await joined();
  room.say("hello");
  for (const _ of Array(7)) {
    socket.says({ type: "pong" });
    await wait(5_000);
  }
  assert.deepEqual(said(socket), ["hello", "hello"]);
  assert.equal(socket.of("chat_message")[0].clientId, socket.of("chat_message")[1].clientId);
});

test("chat: a quiet room whose gateway answers pings is stayed in", async () => {
  const { socket } = await joined();
  for (const _ of Array(20)) {
    await wait(21_000);
    socket.says({ type: "pong" });
  }
  assert.equal(sockets.length, 1);
  assert.ok(socket.of("ping").length >= 20);
});

test("chat: who leaves while no connection is there does not come back", async () => {
  const { room, socket } = await joined();
  socket.onclose({ code: 1006 });
  room.leave();
  await wait(60_000);
  assert.equal(sockets.length, 1);
});

test("chat: a token that cannot be had now is asked for again; one that is refused three times is told", async () => {
  tokens = [offline, offline, offline, offline];
  chat(page);
  for (let turn = 0; turn < 4; turn += 1) {
    sockets.at(-1).onopen();
    await settle();
    assert.equal(sockets.at(-1).closed, 4900);
    sockets.at(-1).onclose({ code: 4900 });
    await wait(9_000);
  }
  assert.deepEqual(asked, []);
  for (let turn = 0; turn < 3; turn += 1) {
    sockets.at(-1).onclose({ code: 4001 });
    await wait(2_000);
  }
  assert.deepEqual(asked, [4001]);
  assert.equal(sockets.length, 7);
});

test("chat: who is sent away is told and says nothing more", async () => {
  const { room, socket } = await joined();
  socket.says({ type: "unsubscribed", channel: "room:lobby", code: "not_member", message: "No." });
  room.say("hello?");
  await wait(40_000);
  assert.deepEqual(asked, ["not_member"]);
  assert.deepEqual(said(socket), []);
});

test("order: a stream that is silent is opened anew on the next gateway, from where it was", async () => {
  follow(page);
  await settle();
  sources[0].says("message", { status: "placed" }, "a-7");
  for (const _ of Array(8)) {
    await wait(15_000);
    sources[0].says("heartbeat", {});
  }
  assert.equal(sources.length, 1);
  await wait(42_000);
  assert.equal(sources[0].readyState, Source.CLOSED);
  assert.equal(sources[1].url.host, "two.example");
  assert.equal(sources[1].url.searchParams.get("lastEventId"), "a-7");
  assert.equal(sources[1].url.searchParams.get("heartbeat"), "event");
});

test("order: a token that cannot be had now is asked for again", async () => {
  tokens = [offline, offline, offline];
  follow(page);
  await wait(10_000);
  assert.equal(sources.length, 1);
  assert.deepEqual(asked, []);
});

test("order: a page that stops does not come back", async () => {
  const { stop } = follow(page);
  await settle();
  sources[0].onerror();
  stop();
  await wait(60_000);
  assert.equal(sources.length, 1);
  const another = follow(page);
  another.stop(); // while it asks for a token
  await wait(60_000);
  assert.equal(sources.length, 1);
});

test("positions: what the docs compare is what our own page compares", async () => {
  const told = script("docs/protocol.md", "The order of a channel", "compare");
  const ours = (await import(new URL("services/gateway/pages/app.js", root))).compare;
  for (const compare of [told, ours]) {
    assert.ok(compare("3aryik7qbitgtqt-9", "3aryik7qbitgtqt-10") < 0);
    assert.ok(compare("3aryik7qbitgtqt-10.end", "3aryik7qbitgtqt-9") > 0);
    assert.equal(compare("3aryik7qbitgtqt-9", "3aryik7qbitgtqt-9"), 0);
    assert.equal(compare("3aryik7qbitgtqt-9", "3aryik7qcv0d1aa-7"), undefined);
  }
});
