// The page's chat and order against a scripted WebSocket and EventSource, with a clock that the test moves.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { begin, pass, Source, sockets, sources } from "../../../support/scripted_page.mjs";

const pages = new URL("../../../../services/gateway/pages/", import.meta.url);
const { Follower, Tracker, compare } = await import(new URL("app.js", pages));
const { Chat, Conversation } = await import(new URL("chat.js", pages));

const gateways = [{ id: "one", url: "http://one.example" }, { id: "two", url: "http://two.example" }];
const deaf = { connection() {}, changed() {}, log() {}, interrupted() {}, expired() {}, refused() {} };

beforeEach(begin);

function joinedChat() {
  const chat = new Chat({ token: "secret", room: "lobby", name: "Ann" }, gateways, 0, deaf);
  chat.start();
  const [socket] = sockets;
  socket.onopen?.();
  socket.says({ type: "connected", userId: "ann" });
  socket.says({ type: "ack", id: "join", success: true, position: "a-0" });
  return { chat, socket };
}

const message = (position, id = position) => ({ id, userId: "ben", text: id, position, at: "" });
const parsed = (position) => {
  const [epoch, seq] = position.split("-");
  return { ...message(position), epoch, seq: Number(seq), name: "" };
};

test("the token travels in the first frame and not in the address", () => {
  const { socket } = joinedChat();
  assert.equal(socket.url, "ws://one.example/ws");
  assert.deepEqual(socket.sent[0], { type: "authenticate", token: "secret" });
});

test("a message that is refused for now is said again before those behind it", () => {
  const { chat, socket } = joinedChat();
  for (const text of ["first", "second", "third"]) chat.say(text);
  const said = () => socket.of("chat_message").map(({ text }) => text);
  assert.deepEqual(said(), ["first"]);
  const refused = socket.of("chat_message")[0];
  socket.says({ type: "error", id: refused.id, code: "rate_limited", message: "Wait." });
  pass(15_000);
  assert.deepEqual(said(), ["first", "first"]);
  for (const number of [1, 2, 3]) {
    const { id } = socket.of("chat_message").at(-1);
    socket.says({ type: "ack", id, messageId: `m${number}`, position: `a-${number}`, at: "" });
  }
  assert.deepEqual(said(), ["first", "first", "second", "third"]);
  assert.deepEqual(chat.conversation.lines.map(({ text }) => text), ["first", "second", "third"]);
});

test("a message that will never be stored lets the next one pass", () => {
  const { chat, socket } = joinedChat();
  for (const text of ["bad", "good"]) chat.say(text);
  socket.says({ type: "error", id: socket.of("chat_message")[0].id, code: "invalid_request", message: "No." });
  assert.deepEqual(socket.of("chat_message").map(({ text }) => text), ["bad", "good"]);
});

test("a connection that is silent behind a ping is given up without leaving, for the next gateway", () => {
  const { chat, socket } = joinedChat();
  chat.say("hello?");
  pass(20_000);
  assert.ok(socket.of("ping").length);
  assert.equal(socket.closed, 4900); // 1000, or no code, would say that the user left
  pass(5_000);
  assert.equal(sockets[1].url, "ws://two.example/ws");
  sockets[1].onopen();
  sockets[1].says({ type: "connected", userId: "ann" });
  sockets[1].says({ type: "ack", id: "join", success: true, position: "a-0", recovered: true });
  assert.deepEqual(sockets[1].of("chat_message").map(({ text }) => text), ["hello?"]);
});

test("an order's page hears heartbeats, and opens a silent stream anew on the next gateway", () => {
  const tracker = new Tracker();
  new Follower({ orderId: "A-1", token: "t" }, gateways, 0, tracker, deaf).start();
  assert.equal(sources[0].url.searchParams.get("heartbeat"), "event");
  sources[0].onopen();
  sources[0].says("message", { status: "placed", updatedAt: "" }, "a-7");
  for (const _ of Array(8)) {
    pass(15_000);
    sources[0].says("heartbeat", {});
  }
  assert.equal(sources.length, 1);
  pass(60_000);
  assert.equal(sources[0].readyState, Source.CLOSED);
  assert.equal(sources[1].url.host, "two.example");
  assert.equal(sources[1].url.searchParams.get("lastEventId"), "a-7");
});

test("positions of one epoch are compared as numbers, those of two not at all", () => {
  assert.ok(compare("a-9", "a-10") < 0);
  assert.ok(compare("a-10.end", "a-9") > 0);
  assert.equal(compare("a-9", "a-9"), 0);
  assert.equal(compare("a-9", "b-9"), undefined);
});

test("one's own message stands where its position says, although the ack overtook others", () => {
  const [ann, ben] = [new Conversation(), new Conversation()];
  for (const each of [ann, ben]) each.joined("a-0");
  ann.speaks("ann");
  ann.say("c-1", "mine");
  ann.confirm("c-1", { messageId: "m2", position: "a-2", at: "" }, "ann", "Ann");
  ann.take(parsed("a-1"));
  ann.take(parsed("a-3"));
  for (const position of ["a-1", "a-2", "a-3"]) ben.take(parsed(position));
  assert.deepEqual(ann.lines.map(({ position }) => position), ben.lines.map(({ position }) => position));
});

test("what is known of an older epoch stands before everything of a newer one", () => {
  const known = new Conversation();
  known.joined("a-0");
  for (const position of ["a-5", "a-7"]) known.take(parsed(position));
  known.reset("b-0");
  known.take(parsed("b-1"));
  known.recall([parsed("a-6")]);
  assert.deepEqual(known.lines.map(({ position }) => position), ["a-5", "a-6", "a-7", "b-1"]);
});
