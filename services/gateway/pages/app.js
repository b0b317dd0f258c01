// Follows one order live: the shop names an order, a gateway streams it, the tracker judges, the view shows.
// What a server sends becomes text or the key of a Map or Set: never markup, never a property name.

const STEPS = ["placed", "confirmed", "preparing", "out_for_delivery", "delivered"];
const WORDS = new Map([
  ["placed", { title: "Placed", line: "The shop has the order." }],
  ["confirmed", { title: "Confirmed", line: "The shop has accepted it." }],
  ["preparing", { title: "Preparing", line: "It is being made ready." }],
  ["out_for_delivery", { title: "Out for delivery", line: "It is on its way." }],
  ["delivered", { title: "Delivered", line: "It has arrived." }],
  ["cancelled", { title: "Cancelled", line: "It will not be delivered." }],
]);
const NEXT = new Map([
  ["placed", new Set(["confirmed", "cancelled"])],
  ["confirmed", new Set(["preparing", "cancelled"])],
  ["preparing", new Set(["out_for_delivery", "cancelled"])],
  ["out_for_delivery", new Set(["delivered", "cancelled"])],
]);
const TERMINAL = new Set(["delivered", "cancelled"]);

const CLOCK = new Intl.DateTimeFormat("en", { timeStyle: "medium", hourCycle: "h23" });
const STATES = new Map([
  ["connecting", "Connecting"],
  ["live", "Live"],
  ["reconnecting", "Reconnecting"],
  ["complete", "Complete"],
  ["idle", "Not connected"],
]);

const SEEN_LIMIT = 1_000;
const LOG_LIMIT = 50;
const TEXT_LIMIT = 300;
const BACKOFF_MIN_MS = 200;
const BACKOFF_MAX_MS = 5_000;
const PATIENCE_MS = 2_000; // for the browser's own reconnect; grows with each failure
const PATIENCE_MAX_MS = 10_000; // a slow network must get through in the end
const NATIVE_TRIES = 3; // a gateway that opens and ends at once is left after this many
const STEADY_MS = 5_000; // open this long counts as healthy
const SILENCE_MS = 40_000; // two heartbeats and a half: the connection is dead, whatever its state says
const FETCH_MS = 5_000;
const PRESS_MS = 30_000; // a gateway may finish what it serves before it comes back

/** Milliseconds to wait before attempt 1, 2, ...: 200 ms at least, up to a doubling ceiling of 5 s. */
export function backoff(attempt, random) {
  const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(attempt, 10));
  return BACKOFF_MIN_MS + random * (ceiling - BACKOFF_MIN_MS);
}

/** `<epoch>-<seq>` or `<epoch>-<seq>.end` in its parts; null for anything else. */
export function parsePosition(id) {
  const match = /^([A-Za-z0-9._-]+)-(\d{1,15})(?:\.end)?$/.exec(id);
  return match && { epoch: match[1], seq: Number(match[2]) };
}

/** Which of two positions of one channel comes first: negative, 0 or positive; undefined of different epochs. */
export function compare(one, other) {
  const [here, there] = [parsePosition(one), parsePosition(other)];
  return here && there && here.epoch === there.epoch ? here.seq - there.seq : undefined;
}

/** JSON of an event as {status, updatedAt, reason, message, retryMs}; null when it is not a JSON object. */
export function parseData(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/** What is known of one order, and whether the stream kept its word. No clock, no network, no DOM. */
export class Tracker {
  counts = { events: 0, reconnects: 0, duplicates: 0, gaps: 0, resets: 0 };
  position = "";
  status = null;
  updatedAt = null;
  complete = false;
  times = new Map();
  #seen = new Set();
  #fresh = true; // the next snapshot may say anything: nothing was known, or a reset announced it

  /** Take the state an unnamed event carries; answers "new", "duplicate", "late" or "gap". */
  snapshot(id, state) {
    const verdict = this.#fresh ? "new" : this.#judge(id, state.status);
    this.#fresh = false;
    return this.#take(id, state, verdict);
  }

  /** Take a status_update; answers like `snapshot`. */
  update(id, state) {
    return this.#take(id, state, this.#judge(id, state.status));
  }

  /** The position could not be honoured: what comes next replaces what was known. */
  reset() {
    this.counts.events += 1;
    this.counts.resets += 1;
    this.#fresh = true;
  }

  /** The stream says it is over; answers "gap" when no terminal status came before. */
  finish(id) {
    this.counts.events += 1;
    this.complete = true;
    this.position = id || this.position;
    if (TERMINAL.has(this.status)) return "new";
    this.counts.gaps += 1;
    return "gap";
  }

  /** Fill in times of steps that happened before this page came; what the stream said stays. */
  recall(history) {
    for (const { status, at } of history.slice(0, WORDS.size)) {
      if (WORDS.has(status) && !this.times.has(status)) this.times.set(status, at);
    }
  }

  #judge(id, status) {
    if (this.#seen.has(id)) return "duplicate";
    const [here, there] = [parsePosition(this.position), parsePosition(id)];
    if (here && there && here.epoch === there.epoch && there.seq <= here.seq) return "late";
    if (this.status === null || NEXT.get(this.status)?.has(status)) return "new";
    return "gap";
  }

  #take(id, state, verdict) {
    this.counts.events += 1;
    if (verdict === "duplicate") this.counts.duplicates += 1;
    if (verdict === "late" || verdict === "gap") this.counts.gaps += 1;
    if (verdict === "new" || verdict === "gap") this.#adopt(id, state);
    return verdict;
  }

  #adopt(id, { status, updatedAt }) {
    this.status = status;
    this.updatedAt = updatedAt;
    this.times.set(status, updatedAt);
    if (!id) return;
    this.position = id;
    this.#seen.add(id);
    if (this.#seen.size > SEEN_LIMIT) this.#seen.delete(this.#seen.values().next().value);
  }
}

/**
 * Keeps one order's stream open over all gateways until it is complete or stopped.
 *
 * `heard` gets everything worth showing: connection(state, gateway), changed(), log(kind, text, id),
 * expired() when a new token is needed, refused(message) when there is no use in trying.
 */
export class Follower {
  #order;
  #token;
  #gateways;
  #at;
  #tracker;
  #heard;
  #source = null;
  #timer = 0;
  #silence = 0;
  #losses = 0; // on this gateway since it last proved healthy
  #moves = 0; // since any gateway proved healthy: the back-off counts these, so the first move is quick
  #openedAt = 0;
  #opens = 0;
  #stopped = false;

  constructor(session, gateways, first, tracker, heard) {
    this.#order = session.orderId;
    this.#token = session.token;
    this.#gateways = gateways;
    this.#at = first;
    this.#tracker = tracker;
    this.#heard = heard;
  }

  /** Connect; also used to go on with a new token after `expired`. */
  start(token = this.#token) {
    if (this.#stopped) return;
    this.#token = token;
    this.#show(this.#opens ? "reconnecting" : "connecting");
    const source = new EventSource(this.#url());
    this.#source = source;
    source.onopen = () => this.#opened();
    source.onerror = () => this.#lost();
    this.#on("message", (event) => this.#stateCame("snapshot", event));
    this.#on("status_update", (event) => this.#stateCame("status_update", event));
    this.#on("complete", (event) => this.#completed(event));
    this.#on("reset", (event) => this.#resetCame(event));
    this.#on("reconnect", (event) => this.#sentAway(event));
    this.#on("token_expired", (event) => this.#tokenExpired(event));
    this.#on("heartbeat", () => {});
    this.#losePatience();
  }

  #on(name, act) {
    this.#source.addEventListener(name, (event) => {
      this.#listen();
      act(event);
    });
  }

  /** A connection may die without a word; EventSource does not notice. */
  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#move("Silence."), SILENCE_MS);
  }

  /** Close for good; nothing is heard afterwards. */
  stop() {
    this.#stopped = true;
    this.#close();
  }

  /** Times of the steps that were over before this page came, from the gateway that serves the page. */
  async recall() {
    const answer = await lookUp(this.#order, this.#token);
    if (this.#stopped || !Array.isArray(answer.order?.history)) return;
    this.#tracker.recall(answer.order.history);
    this.#heard.changed();
  }

  #url() {
    const query = new URLSearchParams({ token: this.#token, heartbeat: "event" });
    if (this.#tracker.position) query.set("lastEventId", this.#tracker.position);
    return `${this.#gateway().url}/api/orders/${encodeURIComponent(this.#order)}/stream?${query}`;
  }

  #gateway() {
    return this.#gateways[this.#at];
  }

  #show(state) {
    this.#heard.connection(state, this.#gateway());
  }

  #close() {
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    this.#timer = 0;
    this.#openedAt = 0;
    this.#source?.close();
  }

  #losePatience() {
    if (this.#timer) return;
    const patience = Math.min(PATIENCE_MAX_MS, PATIENCE_MS * (1 + this.#moves));
    this.#timer = setTimeout(() => this.#move("No answer."), patience);
  }

  #opened() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#openedAt = performance.now();
    this.#listen();
    if (this.#opens++) this.#tracker.counts.reconnects += 1;
    this.#heard.log(this.#opens > 1 ? "reconnected" : "connected", this.#gateway().id, "");
    this.#show("live");
    this.#heard.changed();
  }

  #lost() {
    if (this.#openedAt && performance.now() - this.#openedAt > STEADY_MS) this.#healthy();
    if (this.#openedAt) this.#heard.log("lost", this.#gateway().id, "");
    clearTimeout(this.#silence); // until it is open again patience counts
    this.#openedAt = 0;
    this.#losses += 1;
    this.#show(this.#opens ? "reconnecting" : "connecting");
    if (this.#source.readyState === EventSource.CLOSED) this.#turnedDown();
    else if (this.#losses > NATIVE_TRIES) this.#move("It keeps failing.");
    else this.#losePatience();
  }

  #healthy() {
    this.#losses = 0;
    this.#moves = 0;
  }

  #move(why, delay = backoff(this.#moves + 1, Math.random())) {
    this.#close();
    const from = this.#gateway().id;
    this.#at = (this.#at + 1) % this.#gateways.length;
    this.#losses = 0;
    this.#moves += 1;
    this.#heard.log("moving", `${from} → ${this.#gateway().id}. ${why}`, "");
    this.#show(this.#opens ? "reconnecting" : "connecting");
    this.#timer = setTimeout(() => this.#again(), delay);
  }

  #again() {
    this.#timer = 0;
    this.start();
  }

  /** EventSource hides why it was turned down, so ask for the order itself: only a clear no ends the trying. */
  async #turnedDown() {
    this.#close();
    const { code } = await lookUp(this.#order, this.#token);
    if (this.#stopped) return;
    if (code === 401) this.#renew();
    else if (code === 403) this.#heard.refused("This token may not read the order.");
    else if (code === 404) this.#heard.refused("Order not found.");
    else this.#move("Turned down.");
  }

  #stateCame(kind, event) {
    const state = parseData(event.data);
    if (typeof state?.status !== "string") return this.#unreadable(event);
    this.#healthy();
    const take = kind === "snapshot" ? "snapshot" : "update";
    const verdict = this.#tracker[take](event.lastEventId, { status: state.status, updatedAt: state.updatedAt });
    this.#heard.log(verdict === "new" ? kind : verdict, titleOf(state.status), event.lastEventId);
    this.#heard.changed(kind === "status_update" && verdict !== "duplicate");
    if (verdict === "gap" || (kind === "snapshot" && state.status !== STEPS[0])) this.recall();
  }

  #unreadable(event) {
    this.#tracker.counts.events += 1;
    this.#heard.log("unreadable", event.data, event.lastEventId);
    this.#heard.changed();
  }

  #completed(event) {
    this.#close(); // the browser would reconnect after the end of the stream
    this.#heard.log(this.#tracker.finish(event.lastEventId) === "gap" ? "gap" : "complete", "", event.lastEventId);
    this.#show("complete");
    this.#heard.changed();
  }

  #resetCame(event) {
    this.#tracker.reset();
    this.#heard.log("reset", String(parseData(event.data)?.reason ?? ""), "");
    this.#heard.changed();
  }

  #sentAway(event) {
    const data = parseData(event.data);
    const hint = Number.isFinite(data?.retryMs) ? data.retryMs : BACKOFF_MIN_MS;
    this.#tracker.counts.events += 1;
    this.#heard.log("reconnect", String(data?.reason ?? ""), "");
    this.#heard.changed();
    this.#move("It asked to go.", Math.min(BACKOFF_MAX_MS, Math.max(0, hint)));
  }

  #tokenExpired(event) {
    this.#close();
    this.#tracker.counts.events += 1;
    this.#heard.log("token_expired", String(parseData(event.data)?.message ?? ""), "");
    this.#heard.changed();
    this.#renew();
  }

  /** A shop that hands out tokens which nobody takes is asked slower and slower. */
  #renew() {
    this.#show("reconnecting");
    this.#moves += 1;
    this.#timer = setTimeout(() => this.#heard.expired(), backoff(this.#moves, Math.random()));
  }
}

/** Everything that touches the document. Servers' words go in as text only. */
class View {
  #status = null;

  connection(state, gateway) {
    at("badge").dataset.state = state;
    write("badge-state", STATES.get(state));
    write("badge-gateway", gateway ? `${gateway.id} · ${gateway.url}` : "");
    this.#serving(0, state, gateway);
  }

  chatConnection(state, gateway) {
    at("chat-badge").dataset.state = state;
    write("chat-badge-state", STATES.get(state));
    write("chat-badge-gateway", state === "idle" ? "" : gateway.id);
    this.#serving(1, state, gateway);
  }

  /** The first tag of a gateway's row is the order's, the second the chat's. */
  #serving(tag, state, gateway) {
    for (const row of at("gateways").children) {
      const tags = [...row.querySelectorAll(".tag")];
      tags[tag].dataset.state = row.dataset.url === gateway?.url ? state : "idle";
      row.dataset.state = tags.map(({ dataset }) => dataset.state).find((each) => each !== "idle") ?? "idle";
    }
  }

  gateways(list) {
    at("gateways").replaceChildren(...list.map(({ id, url }) => {
      const tags = element("span", "tags", ...["order", "chat"].map((what) => element("span", "tag", what)));
      const row = element("li", "", element("span", "dot"), element("strong", "", id), tags, element("code", "", url));
      for (const each of [row, ...tags.children]) each.dataset.state = "idle";
      row.dataset.url = url;
      return row;
    }));
  }

  /** Buttons of each gateway; `press(id, how)` resolves when it serves again. */
  buttons(list, press) {
    list.forEach(({ id }, index) => {
      const buttons = [["restart", "Restart"], ["kill", "kill -9"]].map(([how, label]) => {
        const button = element("button", how, label);
        button.type = "button";
        button.setAttribute("aria-label", `${label} ${id}`);
        button.addEventListener("click", () => this.#press(buttons, () => press(id, how)));
        return button;
      });
      at("gateways").children[index].append(element("div", "buttons", ...buttons));
    });
  }

  async #press(buttons, press) {
    for (const button of buttons) button.disabled = true;
    await press();
    for (const button of buttons) button.disabled = false;
  }

  /** Whether a chat room stands beside the order. What this moves was not visible yet. */
  beside(shown) {
    at("chat").hidden = at("chat-badge").hidden = !shown;
    document.body.dataset.chat = shown ? "shown" : "none";
  }

  order({ orderId, note }) {
    write("order-id", orderId);
    write("note", note ? `“${clip(note)}”` : "");
    document.title = "Carillon";
    at("log").replaceChildren();
    write("latency", "–");
    this.#status = null;
    at("now").classList.remove("changed");
    this.asked();
  }

  asked() {
    at("ask-token").value = "";
    at("ask").hidden = true;
    at("hero").hidden = false;
  }

  tracker(tracker) {
    for (const [name, value] of Object.entries(tracker.counts)) {
      const cell = at(`count-${name}`);
      cell.textContent = String(value);
      cell.parentElement.dataset.state = value ? "some" : "none";
    }
    this.#now(tracker);
    this.#timeline(tracker);
  }

  latency(updatedAt, now) {
    const ms = now - Date.parse(updatedAt);
    write("latency", Number.isNaN(ms) ? "–" : spell(ms));
  }

  log(now, kind, text, id) {
    const time = element("time", "", clock(now));
    const words = [element("strong", "", kind), element("span", "", clip(text)), element("code", "", clip(id))];
    const line = element("li", "", time, ...words);
    line.dataset.kind = kind;
    at("log").prepend(line);
    while (at("log").children.length > LOG_LIMIT) at("log").lastElementChild.remove();
  }

  say(title, line) {
    write("now-status", title);
    write("now-line", line);
    at("hero").dataset.status = "unknown";
    at("now-icon").setAttribute("href", "#icon-unknown");
    this.#status = null;
  }

  ask(hint, order = "") {
    write("ask-hint", hint);
    at("ask-order").value = order;
    at("ask-token").value = "";
    at("ask").hidden = false;
    at("hero").hidden = true;
    at(order ? "ask-token" : "ask-order").focus();
  }

  #now({ status, updatedAt }) {
    if (status === null) return this.say("Waiting", "Waiting for the first word about the order.");
    const name = WORDS.has(status) ? status : "unknown";
    const since = clock(updatedAt);
    at("hero").dataset.status = name;
    at("now-icon").setAttribute("href", `#icon-${name}`);
    write("now-status", titleOf(status));
    write("now-line", [WORDS.get(status)?.line, since && `Since ${since}.`].filter(Boolean).join(" "));
    document.title = `${titleOf(status)} · Carillon`;
    if (this.#status !== null && this.#status !== status) this.#flash();
    this.#status = status;
  }

  #flash() {
    const now = at("now");
    now.classList.remove("changed");
    void now.offsetWidth; // starts the animation anew
    now.classList.add("changed");
  }

  #timeline({ status, times }) {
    const cancelled = status === "cancelled";
    const known = STEPS.indexOf(status);
    const reached = known < 0 ? STEPS.findLastIndex((step) => times.has(step)) : known;
    [...at("timeline").children].forEach((row, index) => {
      const last = cancelled && index === STEPS.length - 1;
      const mark = last ? "cancelled" : markOf(index, reached, known < 0 || TERMINAL.has(status));
      const time = last ? times.get("cancelled") : index <= reached && times.get(STEPS[index]);
      row.dataset.mark = cancelled && mark === "ahead" ? "skipped" : mark;
      row.querySelector(".step").textContent = titleOf(last ? "cancelled" : STEPS[index]);
      row.querySelector("time").textContent = clock(time) || (mark === "done" ? "earlier" : "–");
      if (mark === "current") row.setAttribute("aria-current", "step");
      else row.removeAttribute("aria-current");
    });
  }
}

function markOf(index, reached, over) {
  if (index > reached) return "ahead";
  return index === reached && !over ? "current" : "done";
}

export function at(id) {
  return document.getElementById(id);
}

/** Set a text only when it differs: a live region would repeat it otherwise. */
export function write(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function titleOf(status) {
  return WORDS.get(status)?.title ?? clip(status);
}

export function clip(text) {
  return text.length > TEXT_LIMIT ? `${text.slice(0, TEXT_LIMIT)}…` : text;
}

/** Hours, minutes and seconds where the reader is; empty for anything that is not a time. */
export function clock(time) {
  const date = new Date(typeof time === "string" || typeof time === "number" ? time : Number.NaN);
  return Number.isNaN(date.getTime()) ? "" : CLOCK.format(date);
}

function spell(ms) {
  if (ms < -50) return "clock off";
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  return ms < 60_000 ? `${(ms / 1_000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

/** The order as the gateway that served this page knows it: {code, order}; code 0 when it does not answer. */
async function lookUp(order, token) {
  try {
    const answer = await fetch(`/api/orders/${encodeURIComponent(order)}`, {
      headers: { Authorization: `Bearer ${token}` },
      signal: AbortSignal.timeout(FETCH_MS),
    });
    return { code: answer.status, order: answer.ok ? await answer.json() : null };
  } catch {
    return { code: 0, order: null };
  }
}

/** The demo's shop and gateways; null outside the demo. */
async function loadDemo() {
  try {
    const answer = await fetch("/demo.json", { signal: AbortSignal.timeout(FETCH_MS) });
    const demo = answer.ok ? await answer.json() : null;
    return demo?.shop && demo.gateways?.length ? demo : null;
  } catch {
    return null;
  }
}

/** A session of the simulated shop: {orderId, token, userId, note}; asks until it answers. */
async function askShop(shop, wanted, waiting) {
  for (let attempt = 1; wanted(); attempt += 1) {
    try {
      const answer = await fetch(`${shop}/session`, { cache: "no-store", signal: AbortSignal.timeout(FETCH_MS) });
      const session = answer.ok ? await answer.json() : null;
      if (typeof session?.orderId === "string" && typeof session.token === "string") return session;
    } catch { /* asked again below */ }
    waiting();
    await new Promise((resolve) => setTimeout(resolve, backoff(attempt, Math.random())));
  }
  return null;
}

/** Ask the launcher, through the shop, to end a gateway; resolves when it serves again, to what became of it. */
async function askControl(shop, control, id, how) {
  try {
    const answer = await fetch(`${shop}/gateways/${encodeURIComponent(id)}/${how}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${control}` },
      signal: AbortSignal.timeout(PRESS_MS),
    });
    if (answer.ok) return "It is back.";
    return answer.status === 503 ? "It is busy already." : "Not allowed.";
  } catch {
    return "The launcher does not answer.";
  }
}

/** Which gateway the page's address names, by index; else any. */
function firstGateway(gateways) {
  const named = new URLSearchParams(location.search).get("gateway");
  const index = gateways.findIndex(({ id }) => id === named);
  return index < 0 ? Math.floor(Math.random() * gateways.length) : index;
}

/** Order and token of the fragment; the address bar and the history forget them at once. */
function takeFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  return { orderId: given.get("order") ?? "", token: given.get("token") ?? "" };
}

/** One page: which order is followed, and where the next session comes from. */
class Page {
  #view = new View();
  #demo;
  #gateways;
  #first;
  #session = null;
  #follower = null;
  #conversing = false;
  #paused = false; // the follower waits for a token that a person must enter
  #turn = 0; // an answer of the shop to an older question is dropped

  constructor(demo) {
    this.#demo = demo;
    this.#gateways = demo?.gateways ?? [{ id: "this gateway", url: location.origin }];
    this.#first = firstGateway(this.#gateways);
    this.#view.gateways(this.#gateways);
    this.#view.beside(Boolean(demo));
    at("another").hidden = !demo;
    at("another").addEventListener("click", () => this.another());
    at("ask").addEventListener("submit", (event) => this.#asked(event));
    addEventListener("hashchange", () => this.#pasted(takeFragment()));
  }

  /** Follow what the fragment names, else what the shop gives, else ask. */
  open() {
    const given = takeFragment();
    if (this.#pasted(given)) return;
    if (this.#demo) this.another();
    else this.#ask("Enter the order and a token that may read it.", given.orderId);
  }

  /** Leave the present order for the next one of the shop. */
  async another() {
    this.#follower?.stop();
    const session = await this.#newSession();
    if (!session) return;
    this.#follow(session);
    if (typeof session.room === "string") this.#converse(session);
  }

  #pasted(given) {
    if (!given.orderId || !given.token) return false;
    this.#follow(given);
    return true;
  }

  async #newSession() {
    const turn = ++this.#turn;
    at("another").disabled = true;
    const waiting = () => this.#view.say("Waiting", "The shop does not answer yet. Trying again.");
    const session = await askShop(this.#demo.shop, () => turn === this.#turn, waiting);
    if (turn !== this.#turn) return null;
    at("another").disabled = false;
    return session;
  }

  #follow(session) {
    this.#turn += 1;
    at("another").disabled = false;
    this.#follower?.stop();
    this.#paused = false;
    this.#session = session;
    const tracker = new Tracker();
    this.#follower = new Follower(session, this.#gateways, this.#first, tracker, this.#heard(tracker));
    this.#view.order(session);
    this.#view.tracker(tracker);
    this.#follower.start();
  }

  #heard(tracker) {
    const view = this.#view;
    return {
      connection: (state, gateway) => view.connection(state, gateway),
      log: (kind, text, id) => view.log(Date.now(), kind, text, id),
      changed: (timed) => {
        view.tracker(tracker);
        if (timed) view.latency(tracker.updatedAt, Date.now());
      },
      expired: () => this.#expired(),
      refused: (message) => this.#refused(message),
    };
  }

  /** The first session of the shop opens the room and the buttons; they outlive its order. */
  async #converse(session) {
    if (this.#conversing) return;
    this.#conversing = true;
    this.#view.buttons(this.#gateways, (id, how) => this.#press(id, how, session.control));
    try {
      const { Chat, ChatView } = await import("./chat.js");
      this.#chatted(session, Chat, ChatView);
    } catch {
      this.#view.beside(false);
    }
  }

  #chatted(session, Chat, ChatView) {
    const view = this.#view;
    const card = new ChatView(session, (text) => chat.say(text), () => chat.typed());
    const chat = new Chat(session, this.#gateways, this.#first, {
      connection: (state, gateway) => view.chatConnection(state, gateway),
      log: (kind, text, id) => view.log(Date.now(), kind, text, id),
      changed: () => {
        card.conversation(chat.conversation);
        card.people(chat.people);
      },
      interrupted: (ms) => card.interruption(ms),
      expired: () => this.#renewChat(chat, card),
    });
    chat.start();
  }

  /** The shop knows no sign-in, so whoever needs a new token goes on as somebody new. */
  async #renewChat(chat, card) {
    const session = await askShop(this.#demo.shop, () => true, () => {});
    card.session(session);
    chat.start(session);
  }

  async #press(id, how, control) {
    this.#view.log(Date.now(), how, id, "");
    const outcome = await askControl(this.#demo.shop, control, id, how);
    this.#view.log(Date.now(), how, `${id}: ${outcome}`, "");
  }

  /** The shop's token is the customer's: the same customer goes on with the same order and position. */
  async #expired() {
    if (!this.#demo || !this.#session.userId) {
      this.#ask("The token is not valid. Enter another one.", this.#session.orderId);
      this.#paused = true;
      return;
    }
    const session = await this.#newSession();
    if (!session) return;
    if (session.userId === this.#session.userId) this.#follower.start(session.token);
    else this.#follow(session);
  }

  #refused(message) {
    this.#follower.stop();
    this.#view.connection("idle", null);
    if (this.#demo) this.#view.say("Not available", message);
    else this.#ask(message, this.#session.orderId);
  }

  #ask(hint, order) {
    this.#paused = false;
    this.#view.connection("idle", null);
    this.#view.ask(hint, order);
  }

  #asked(event) {
    event.preventDefault();
    const given = { orderId: at("ask-order").value.trim(), token: at("ask-token").value.trim() };
    if (!this.#paused || given.orderId !== this.#session.orderId) return void this.#pasted(given);
    this.#paused = false;
    this.#view.asked();
    this.#follower.start(given.token);
  }
}

if ("document" in globalThis) new Page(await loadDemo()).open();
