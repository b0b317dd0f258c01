// Who is in the room, who types, and on which gateway: the people judge frames, the view shows them.
// What a server sends becomes text or the key of a Map or Set: never markup, never a property name.

import { at, clip, element, write } from "./app.js";

const SHOWN = 30; // names; more are counted

/** A member with the fields that are shown; null for anything else. */
export function parseMember(member) {
  const { userId, name, gateways, devices, suspect } = member ?? {};
  if (typeof userId !== "string") return null;
  return {
    userId,
    name: typeof name === "string" && name ? name : userId,
    gateways: (Array.isArray(gateways) ? gateways : []).filter((each) => typeof each === "string"),
    devices: Number.isInteger(devices) ? devices : 1,
    suspect: suspect === true,
  };
}

/** Everybody in one room. No clock, no network, no DOM. */
export class People {
  #revision = null; // of the list; null while there is none
  #members = new Map();
  #typing = new Map();
  count = 0;

  /** Take a frame; answers "none" (not of presence), "changed", or "missed": ask for the list again. */
  take(frame) {
    switch (frame?.type) {
      case "presence_state":
        return this.#state(frame);
      case "presence_diff":
        return this.#diff(frame);
      case "presence_occupancy":
        return this.#counted(frame);
      case "user_typing":
        return this.#typed(frame);
      default:
        return "none";
    }
  }

  /** The connection is gone: a state comes with the next one. */
  lost() {
    this.#revision = null;
    this.#typing.clear();
  }

  /** In order of names. */
  get members() {
    return [...this.#members.values()].sort((one, other) => one.name.localeCompare(other.name));
  }

  /** Names of those who type. */
  get typing() {
    return [...this.#typing.values()];
  }

  #state(frame) {
    this.#members.clear();
    this.#typing.clear();
    for (const member of Array.isArray(frame.members) ? frame.members : []) {
      this.#keep(member);
      if (member?.typing === true) this.#typed({ ...member, typing: true });
    }
    return this.#at(frame);
  }

  #diff(frame) {
    if (this.#revision === null) return "none"; // a state is on its way
    if (frame.previous !== this.#revision) return "missed";
    for (const member of [...(frame.joined ?? []), ...(frame.updated ?? [])]) this.#keep(member);
    for (const user of frame.left ?? []) this.#members.delete(user);
    return this.#at(frame);
  }

  #counted(frame) {
    this.#members.clear();
    for (const member of frame.sample ?? []) this.#keep(member);
    return this.#at(frame);
  }

  #typed({ userId, name, typing }) {
    if (typing === true) this.#typing.set(userId, typeof name === "string" && name ? name : String(userId));
    else this.#typing.delete(userId);
    return "changed";
  }

  #keep(member) {
    const parsed = parseMember(member);
    if (parsed) this.#members.set(parsed.userId, parsed);
  }

  #at({ revision, count }) {
    this.#revision = revision;
    this.count = Number.isInteger(count) ? count : this.#members.size;
    return "changed";
  }
}

/** The line of people above the talk. Servers' words go in as text only. */
export class PeopleView {
  show(people) {
    const shown = people.members.slice(0, SHOWN);
    const rest = people.count - shown.length;
    const rows = shown.map((member) => this.#row(member));
    if (rest > 0) rows.push(element("li", "rest", `and ${rest} more`));
    at("people").replaceChildren(...rows);
    write("online", people.count === 1 ? "1 here" : `${people.count} here`);
    write("typing", phrase(people.typing));
  }

  #row({ name, gateways, devices, suspect }) {
    const where = element("span", "tag", gateways.map(clip).join(", "));
    const row = element("li", suspect ? "suspect" : "", clip(devices > 1 ? `${name} ×${devices}` : name), where);
    return row;
  }
}

/** Who types, in words. */
export function phrase(names) {
  if (!names.length) return "";
  if (names.length > 3) return "Several people are typing …";
  return `${names.map(clip).join(", ")} ${names.length === 1 ? "is" : "are"} typing …`;
}
