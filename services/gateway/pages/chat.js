// Follows one chat room live: the conversation judges, the chat keeps a connection, the view shows.
// What a server sends becomes text or the key of a Map or Set: never markup, never a property name.

import { at, backoff, clip, clock, compare, element, parseData, parsePosition, write } from "./app.js";
import { People, PeopleView } from "./people.js";

const ROOM_LIMIT = 100; // messages kept and shown
const SEEN_LIMIT = 2_000;
const PENDING_LIMIT = 20;
const HISTORY_LIMIT = 50;
const AUDIT_LIMIT = 100; // the most that one page of history has
const HINT_MAX_MS = 10_000;
const AT_ONCE_MS = 100; // spreads those who were all sent away at once
const AT_ONCE_TRIES = 2;
const CONNECT_MS = 5_000;
const TICK_MS = 5_000;
const AUDIT_TICKS = 3;
const SILENCE_MS = 10_000; // after a ping
const GIVEN_UP = 4900; // a close code of our own: without one the gateway would say that the user left
const RESEND_MS = 8_000;
const STEADY_MS = 5_000;
const NOTHING = { key: "", at: 0 };
const TYPING_MS = 1_000; // between two keys that are told
const PASSING = new Set(["rate_limited", "overloaded", "unavailable", "timeout", "internal", "conflict", "storage_full"]);

/**
 * Milliseconds until the next connection after a close with `code`; null: do not come back with this token.
 *
 * 4000-4099 stop, 4200-4299 at once, all else backs off; a goodbye's `hint` counts before the range.
 */
export function pause(code, attempt, random, hint = null) {
  if (code >= 4000 && code < 4100) return null;
  if (Number.isFinite(hint)) return Math.min(HINT_MAX_MS, Math.max(0, hint));
  if (code >= 4200 && code < 4300 && attempt <= AT_ONCE_TRIES) return random * AT_ONCE_MS;
  return backoff(attempt, random);
}

/** A chat_message with the fields that are used, all of them text; null for anything else. */
export function parseMessage(frame) {
  const { id, userId, text, position } = frame ?? {};
  if (![id, userId, text, position].every((field) => typeof field === "string")) return null;
  const place = parsePosition(position);
  const said = (field) => (typeof field === "string" ? field : "");
  return place && { id, userId, text, position, ...place, name: said(frame.name), at: said(frame.at) };
}

/**
 * What is known of a room, and whether its gateways kept their word. No clock, no network, no DOM.
 *
 * The stream owes every message of others behind `base`. Own messages come back as acknowledgements, and after
 * a reconnect perhaps as messages too. `position` is that of the last message streamed; an acknowledgement does
 * not move it, because a message before it may still be on its way.
 */
export class Conversation {
  counts = { messages: 0, reconnects: 0, lost: 0, duplicates: 0, gaps: 0 };
  position = "";
  #base = null;
  #owed = null; // how far the room was when it was joined last
  #users = new Set(); // a page that got a new token is somebody else
  #messages = new Map();
  #streamed = new Set();
  #acked = new Map();
  #missed = new Set();
  #epochs = new Set(); // in the order in which they began
  #pending = new Map();

  /** From now on `user` speaks here; messages of an earlier one that are not acknowledged cannot be repeated. */
  speaks(user) {
    if (this.#users.size && !this.#users.has(user)) {
      for (const entry of this.#pending.values()) entry.failed ||= "not confirmed";
    }
    this.#users.add(user);
  }

  /** The room is followed again; answers "first", "resumed" or "gap". */
  joined(position, recovered) {
    const first = !this.#base;
    if (!first) this.counts.reconnects += 1;
    if (first || recovered === false) this.#begin(position);
    else this.#owed = parsePosition(position);
    if (first || recovered !== false) return first ? "first" : "resumed";
    this.counts.gaps += 1;
    return "gap";
  }

  /** Continuity broke on the gateway's side. */
  reset(position) {
    this.counts.gaps += 1;
    this.#begin(position);
  }

  /** Take a streamed message; answers "new", "duplicate" or "late". */
  take(message) {
    const here = parsePosition(this.position);
    if (this.#streamed.has(message.id)) {
      this.counts.duplicates += 1;
      return "duplicate";
    }
    const late = here?.epoch === message.epoch && message.seq <= here.seq;
    if (late) this.counts.gaps += 1;
    else this.position = message.position;
    this.counts.messages += 1;
    remember(this.#streamed, message.id);
    if (this.#users.has(message.userId)) this.#recognise(message);
    this.#keep(message);
    return late ? "late" : "new";
  }

  /** Show what was said before; nothing of it is owed. */
  recall(messages) {
    for (const message of messages) this.#keep(message);
  }

  /** Something is to be said; false when too much waits already. */
  say(clientId, text) {
    if (this.unsent.length >= PENDING_LIMIT) return false;
    if (this.#pending.size >= 2 * PENDING_LIMIT) this.#forgetFailed();
    this.#pending.set(clientId, { key: clientId, text, own: true, id: null, failed: "" });
    return true;
  }

  /** The gateway has it; however often it was sent it is stored once, under `messageId`. */
  confirm(clientId, { messageId, position, at: time }, user, name) {
    const entry = this.#pending.get(clientId);
    if (!entry || typeof messageId !== "string") return;
    this.#pending.delete(clientId);
    remember(this.#acked, messageId, position);
    const message = parseMessage({ id: messageId, userId: user, name, text: entry.text, position, at: time });
    if (message) this.#keep({ ...message, key: clientId });
  }

  /** It will not be sent, and why. */
  fail(clientId, why) {
    const entry = this.#pending.get(clientId);
    if (entry) entry.failed = why || "refused";
  }

  /**
   * Compare with a page of history, the newest `messages` there are, oldest first; answers how many were lost.
   *
   * Lost is a message of others that the stream owed and did not send, and an own one that was acknowledged
   * and is not there.
   */
  audit(messages, more) {
    const stored = new Set(messages.map(({ id }) => id));
    const owed = messages.filter((message) => this.#isOwed(message) && !this.#streamed.has(message.id));
    const start = more ? messages[0] : null;
    const gone = [...this.#acked].filter(([id, position]) => !stored.has(id) && !before(parsePosition(position), start));
    const missed = [...owed.map(({ id }) => id), ...gone.map(([id]) => id)].filter((id) => !this.#missed.has(id));
    for (const id of missed) remember(this.#missed, id);
    this.counts.lost += missed.length;
    this.recall(owed);
    return missed.length;
  }

  /** What was said and is neither confirmed nor given up, oldest first. */
  get unsent() {
    return [...this.#pending.values()].filter((entry) => !entry.failed);
  }

  /** What to show, in order. */
  get lines() {
    const own = (message) => ({ ...message, own: this.#users.has(message.userId) });
    const said = [...this.#messages.values()].map(own);
    return [...said, ...[...this.#pending.values()].filter(({ id }) => !this.#messages.has(id))];
  }

  #forgetFailed() {
    for (const { key, failed } of this.#pending.values()) if (failed) this.#pending.delete(key);
  }

  #begin(position) {
    this.position = typeof position === "string" ? position : "";
    this.#base = parsePosition(this.position) ?? { epoch: "", seq: 0 };
    remember(this.#epochs, this.#base.epoch);
    this.#owed = null;
    this.#acked.clear();
  }

  #isOwed(message) {
    if (this.#users.has(message.userId) || this.#base?.epoch !== message.epoch) return false;
    const end = Math.max(parsePosition(this.position)?.seq ?? 0, this.#owed?.seq ?? 0);
    return message.seq > this.#base.seq && message.seq <= end;
  }

  /** An own message that comes back before its acknowledgement is shown once. */
  #recognise(message) {
    const entry = [...this.#pending.values()].find(({ id, text }) => id === null && text === message.text);
    if (entry && !this.#messages.has(message.id)) entry.id = message.id;
  }

  #keep(message) {
    if (this.#messages.has(message.id)) return;
    this.#messages.set(message.id, { key: message.id, ...message });
    remember(this.#epochs, message.epoch);
    this.#arrange();
  }

  /** By position; what is known of an older epoch stands before everything of a newer one. */
  #arrange() {
    const epochs = [...this.#epochs];
    const apart = (one, other) => epochs.indexOf(one.epoch) - epochs.indexOf(other.epoch);
    const order = [...this.#messages.values()].sort(
      (one, other) => compare(one.position, other.position) ?? apart(one, other),
    );
    this.#messages = new Map(order.slice(-ROOM_LIMIT).map((message) => [message.id, message]));
  }
}

/** Whether one position precedes another; false also when they cannot be compared. */
function before(one, other) {
  return Boolean(one && other && one.epoch === other.epoch && one.seq < other.seq);
}

/** Add to a Set or Map; the oldest entry beyond the limit goes. */
function remember(collection, key, value) {
  if (collection instanceof Map) collection.set(key, value);
  else collection.add(key);
  if (collection.size > SEEN_LIMIT) collection.delete(collection.keys().next().value);
}

/**
 * Keeps one room open over all gateways. `first` is the index of the gateway to begin with.
 *
 * `heard` gets everything worth showing: connection(state, gateway), changed(), log(kind, text, id),
 * interrupted(ms) when an interruption is over, expired() when a new token is needed.
 */
export class Chat {
  conversation = new Conversation();
  people = new People();
  #session;
  #gateways;
  #at;
  #heard;
  #socket = null;
  #timer = 0; // until it is connected, or until the next attempt
  #user = "";
  #live = false;
  #joins = 0;
  #attempts = 0; // since a connection last proved steady
  #since = 0; // when it was joined
  #brokeAt = 0;
  #lastHeard = 0;
  #pingedAt = 0;
  #hint = null;
  #ticks = 0;
  #typedAt = 0;
  #asked = NOTHING; // the message that was sent last, and when

  constructor(session, gateways, first, heard) {
    this.#session = session;
    this.#gateways = gateways;
    this.#at = first;
    this.#heard = heard;
    setInterval(() => this.#tick(), TICK_MS);
  }

  /** Connect; also used to go on with a new session after `expired`. */
  start(session = this.#session) {
    this.#session = session;
    this.#show(this.#joins ? "reconnecting" : "connecting");
    const { url } = this.#gateways[this.#at];
    const socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws`);
    this.#socket = socket;
    // In a frame, not in the address: browsers print addresses in their console.
    socket.onopen = () => this.#send({ type: "authenticate", token: session.token });
    socket.onmessage = ({ data }) => this.#came(parseData(data));
    socket.onclose = ({ code }) => this.#closed(code);
    this.#wait(CONNECT_MS, () => this.#dead("No answer."));
  }

  /** Say something; false when too much waits already. */
  say(text) {
    const clientId = crypto.randomUUID();
    if (!this.conversation.say(clientId, text)) return false;
    this.#heard.changed();
    this.#sayNext();
    return true;
  }

  /** A key was pressed; the others are told once a second, and the gateway tells them when it is over. */
  typed() {
    const now = performance.now();
    if (!this.#live || now - this.#typedAt < TYPING_MS) return;
    this.#typedAt = now;
    this.#send({ type: "typing_start", roomId: this.#session.room });
  }

  #wait(ms, next) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(next, ms);
  }

  #show(state) {
    this.#heard.connection(state, this.#gateways[this.#at]);
  }

  #send(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  /** One after the other: one that is refused for now and said again would come behind those said later. */
  #sayNext() {
    const [next] = this.conversation.unsent;
    if (!this.#live || !next || this.#asked.key === next.key) return;
    const { key, text } = next;
    this.#asked = { key, at: performance.now() };
    this.#send({ type: "chat_message", id: `say:${key}`, clientId: key, roomId: this.#session.room, text });
  }

  /** The one that was sent last is sent again, if it is not settled; it is stored once. */
  #sayAgain() {
    this.#asked = NOTHING;
    this.#sayNext();
  }

  #ask(purpose, limit) {
    this.#send({ type: "history", id: purpose, roomId: this.#session.room, limit });
  }

  #came(frame) {
    this.#lastHeard = performance.now();
    if (frame?.type === "connected") this.#connected(frame);
    else if (frame?.type === "chat_message") this.#messageCame(frame);
    else if (frame?.type === "ack") this.#answered(frame);
    else if (frame?.type === "error") this.#refused(frame);
    else if (frame?.type === "reset") this.#resetCame(frame);
    else if (frame?.type === "goodbye") this.#goodbye(frame);
    else this.#peopleCame(frame);
  }

  #peopleCame(frame) {
    const verdict = this.people.take(frame);
    if (verdict === "missed") this.#send({ type: "subscribe", channel: `presence:room:${this.#session.room}` });
    if (verdict === "changed") this.#heard.changed();
  }

  #connected(frame) {
    this.#user = String(frame.userId ?? "");
    this.conversation.speaks(this.#user);
    const since = this.conversation.position ? { since: this.conversation.position } : {};
    this.#send({ type: "join_room", id: "join", roomId: this.#session.room, presence: "diffs", ...since });
  }

  #answered(frame) {
    const id = String(frame.id ?? "");
    if (id === "join") this.#joined(frame);
    else if (id === "history") this.#recall(frame);
    else if (id === "audit") this.#audit(frame);
    else if (id.startsWith("say:")) this.#confirmed(id.slice(4), frame);
    this.#heard.changed();
  }

  #joined(frame) {
    clearTimeout(this.#timer);
    this.#pingedAt = 0;
    const outcome = this.conversation.joined(frame.position, frame.recovered);
    this.#live = true;
    this.#joins += 1;
    this.#since = performance.now();
    this.#hint = null;
    if (this.#brokeAt) this.#heard.interrupted(this.#since - this.#brokeAt);
    this.#brokeAt = 0;
    const kind = outcome === "gap" ? "gap" : this.#joins > 1 ? "reconnected" : "connected";
    this.#heard.log(kind, `Chat: ${this.#gateways[this.#at].id}`, String(frame.reason ?? ""));
    this.#show("live");
    this.#sayAgain();
    this.#ask(outcome === "resumed" ? "audit" : "history", outcome === "resumed" ? AUDIT_LIMIT : HISTORY_LIMIT);
  }

  #confirmed(clientId, frame) {
    this.conversation.confirm(clientId, frame, this.#user, this.#session.name);
    this.#sayNext();
  }

  #recall(frame) {
    this.conversation.recall(messagesOf(frame));
  }

  #audit(frame) {
    const lost = this.conversation.audit(messagesOf(frame), frame.more === true);
    if (lost) this.#heard.log("gap", `Chat: ${lost} lost`, "");
  }

  #messageCame(frame) {
    const message = parseMessage(frame);
    if (!message) return this.#heard.log("unreadable", "Chat", "");
    const verdict = this.conversation.take(message);
    if (verdict !== "new") this.#heard.log(verdict, `Chat: ${message.text}`, message.position);
    this.#heard.changed();
  }

  #resetCame(frame) {
    this.conversation.reset(frame.position);
    this.#heard.log("reset", `Chat: ${frame.reason ?? ""}`, "");
    this.#ask("history", HISTORY_LIMIT);
    this.#heard.changed();
  }

  #refused(frame) {
    const [id, code] = [String(frame.id ?? ""), String(frame.code ?? "")];
    if (id === "join") return PASSING.has(code) ? this.#dead(code) : this.#stop(String(frame.message ?? code));
    if (!id.startsWith("say:") || PASSING.has(code)) return; // the next tick asks again
    this.conversation.fail(id.slice(4), String(frame.message ?? code));
    this.#sayNext();
    this.#heard.changed();
  }

  #goodbye(frame) {
    this.#hint = Number.isFinite(frame.reconnectMs) ? frame.reconnectMs : null;
    this.#heard.log("reconnect", `Chat: ${frame.reason ?? ""}`, "");
  }

  /** The connection is given up without waiting for its end. */
  #dead(why) {
    if (this.#socket) this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket?.close(GIVEN_UP);
    this.#closed(1006, why);
  }

  #closed(code, why = "") {
    clearTimeout(this.#timer);
    this.#socket = null;
    if (this.#live && performance.now() - this.#since > STEADY_MS) this.#attempts = 0;
    if (this.#live) this.#brokeAt = performance.now();
    this.#live = false;
    this.people.lost();
    this.#attempts += 1;
    const ms = pause(code, this.#attempts, Math.random(), this.#hint);
    this.#hint = null;
    if (ms !== null) this.#move(ms, why || `Closed with ${code}.`);
    else if (code === 4001 || code === 4002) this.#renew();
    else this.#stop(`Closed with ${code}.`);
  }

  #move(ms, why) {
    const from = this.#gateways[this.#at].id;
    this.#at = (this.#at + 1) % this.#gateways.length;
    this.#heard.log("moving", `Chat: ${from} → ${this.#gateways[this.#at].id}. ${why}`, "");
    this.#show(this.#joins ? "reconnecting" : "connecting");
    this.#wait(ms, () => this.start());
  }

  /** A shop that hands out tokens which nobody takes is asked slower and slower. */
  #renew() {
    this.#show("reconnecting");
    this.#wait(backoff(this.#attempts, Math.random()), () => this.#heard.expired());
  }

  #stop(why) {
    clearTimeout(this.#timer);
    this.#live = false;
    if (this.#socket) this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket?.close();
    this.#socket = null;
    this.#heard.log("refused", `Chat: ${why}`, "");
    this.#show("idle");
  }

  #tick() {
    if (!this.#live) return;
    const now = performance.now();
    const answered = this.#lastHeard >= this.#pingedAt;
    if (!answered && now - this.#pingedAt > SILENCE_MS) return this.#dead("Silence.");
    if (answered) this.#ping(now);
    if (now - this.#asked.at > RESEND_MS) this.#sayAgain();
    this.#ticks += 1;
    if (this.#ticks % AUDIT_TICKS === 0) this.#ask("audit", AUDIT_LIMIT);
  }

  #ping(now) {
    this.#pingedAt = now;
    this.#send({ type: "ping" });
  }
}

function messagesOf(frame) {
  return (Array.isArray(frame.messages) ? frame.messages : []).map(parseMessage).filter(Boolean);
}

/** The room's card. Servers' words go in as text only. */
export class ChatView {
  #rows = new Map();

  #people = new PeopleView();

  constructor(session, say, typed) {
    this.session(session);
    at("say-text").addEventListener("input", typed);
    at("say").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = at("say-text").value.trim();
      if (text && say(text)) at("say-text").value = "";
    });
  }

  session({ room, name }) {
    write("room", room);
    write("guest", name ? `You are ${clip(name)}.` : "");
  }

  conversation(conversation) {
    for (const [name, value] of Object.entries(conversation.counts)) {
      const cell = at(`chat-${name}`);
      cell.textContent = String(value);
      cell.parentElement.dataset.state = value ? "some" : "none";
    }
    this.#show(conversation.lines);
  }

  people(people) {
    this.#people.show(people);
  }

  interruption(ms) {
    write("chat-interruption", `${Math.round(ms)} ms`);
  }

  #show(lines) {
    const list = at("talk");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const rows = new Map(lines.map((line) => [line.key, this.#row(line)]));
    [...rows.values()].forEach((row, index) => {
      if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
    });
    while (list.children.length > rows.size) list.lastElementChild.remove();
    this.#rows = rows;
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  #row(line) {
    const row = this.#rows.get(line.key) ?? this.#newRow(line);
    const sent = Boolean(line.position);
    row.dataset.sent = line.failed ? "failed" : sent ? "sent" : "pending";
    const time = row.querySelector("time");
    const words = line.failed || (sent ? clock(line.at) : "sending …");
    if (time.textContent !== words) time.textContent = words;
    return row;
  }

  #newRow(line) {
    const who = element("strong", "", line.own ? "You" : clip(line.name || line.userId || ""));
    const row = element("li", line.own ? "own" : "", who, element("time", ""), element("p", "", clip(line.text)));
    return row;
  }
}
