/**
 * What the page is about: an immutable state for each room, with undo, and an address for it.
 *
 * An address is `#room?name=value&...`, with the fields that differ from the room's beginning. A
 * field that cannot be read keeps its beginning, so that no address breaks the page.
 */

/**
 * @template Value
 * @typedef {import("./fields.js").Field<Value>} Field
 */

/**
 * @template {object} State
 * @typedef {object} Shape what a store must know of a room
 * @property {string} id
 * @property {{[Name in keyof State]: Field<State[Name]>}} fields
 * @property {(state: State) => State} [mend] make fields fit each other
 */

/**
 * Return the state that a room begins with.
 * @template {object} State
 * @param {Shape<State>} room
 */
export function beginning(room) {
  const names = /** @type {(keyof State)[]} */ (Object.keys(room.fields));
  return /** @type {State} */ (
    Object.fromEntries(names.map((name) => [name, room.fields[name].initial]))
  );
}

/**
 * Return the address of a room in a state.
 * @param {Shape<any>} room
 * @param {Record<string, unknown>} state
 */
export function address(room, state) {
  const parts = Object.entries(room.fields)
    .map(([name, field]) => [name, field.write(state[name]), field.write(field.initial)])
    .filter(([, now, before]) => now !== before)
    .map(
      ([name, now]) =>
        `${name}=${encodeURIComponent(now).replaceAll("%2C", ",").replaceAll("%3B", ";")}`,
    );
  return `#${room.id}${parts.length > 0 ? `?${parts.join("&")}` : ""}`;
}

/**
 * Return the room and the state that an address names, and the fields that cannot be read.
 * @param {string} hash
 * @param {readonly Shape<any>[]} rooms
 */
export function located(hash, rooms) {
  const [id, query = ""] = hash.replace(/^#/, "").split("?");
  const room = rooms.find((each) => each.id === id);
  if (room === undefined) return undefined;
  const state = beginning(room);
  /** @type {string[]} */
  const unread = [];
  for (const part of query.split("&").filter((each) => each !== "")) {
    const [name, ...rest] = part.split("=");
    const value = Object.hasOwn(room.fields, name)
      ? room.fields[name].read(decoded(rest.join("=")))
      : undefined;
    if (value === undefined) unread.push(name);
    else state[name] = value;
  }
  return { room: room.id, state: room.mend?.(state) ?? state, unread };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @typedef {{past: object[], present: any, future: object[], gesture: string | null}} History */

/** What can be undone; more would keep a long afternoon's every state. */
const DEPTH = 200;

/**
 * Return the one place that a page's state is kept.
 * @param {readonly Shape<any>[]} rooms the first is where it begins
 */
export function createStore(rooms) {
  /** @type {Map<string, History>} */
  const histories = new Map(
    rooms.map((room) => [
      room.id,
      { past: [], present: beginning(room), future: [], gesture: null },
    ]),
  );
  /** @type {Set<() => void>} */
  const listeners = new Set();
  let current = rooms[0];

  const history = () => /** @type {History} */ (histories.get(current.id));
  const tell = () => {
    for (const listener of listeners) listener();
  };

  /**
   * @param {"past" | "future"} from
   * @param {"past" | "future"} to
   */
  function travel(from, to) {
    const now = history();
    const state = now[from].pop();
    if (state === undefined) return;
    now[to].push(now.present);
    now.present = state;
    now.gesture = null;
    tell();
  }

  const store = {
    room: () => current.id,
    /** @param {string} [id] of another room than the one that is shown */
    state: (id = current.id) => histories.get(id)?.present,
    address: () => address(current, history().present),
    can: () => ({ undo: history().past.length > 0, redo: history().future.length > 0 }),

    /**
     * Put a part of the room's state in the place of what was there.
     * @param {object} part
     * @param {string | null} [gesture] changes of one gesture are undone together
     * @param {string} [id] of another room than the one that is shown
     */
    change(part, gesture = null, id = current.id) {
      const room = rooms.find((each) => each.id === id) ?? current;
      const now = /** @type {History} */ (histories.get(room.id));
      const next = { ...now.present, ...part };
      const mended = room.mend?.(next) ?? next;
      if (address(room, mended) === address(room, now.present)) return;
      if (gesture === null || gesture !== now.gesture) {
        now.past = [...now.past, now.present].slice(-DEPTH);
      }
      now.present = mended;
      now.future = [];
      now.gesture = gesture;
      tell();
    },

    /** End a gesture: the next change is undone by itself. */
    settle() {
      history().gesture = null;
    },

    undo: () => travel("past", "future"),
    redo: () => travel("future", "past"),

    /** @param {string} id */
    go(id) {
      const room = rooms.find((each) => each.id === id);
      if (room === undefined || room === current) return;
      history().gesture = null;
      current = room;
      tell();
    },

    /**
     * Begin where an address leads.
     * @param {string} hash
     * @returns {string[]} the names that could not be read
     */
    begin(hash) {
      const unread = store.follow(hash);
      store.forget();
      return unread;
    },

    /** Let the states of now be those that undo ends at. */
    forget() {
      for (const each of histories.values()) each.past = [];
      tell();
    },

    /**
     * Go where an address leads; what it changes can be undone.
     * @param {string} hash
     * @returns {string[]} the names that could not be read
     */
    follow(hash) {
      const found = located(hash, rooms);
      if (found === undefined) return hash.length > 1 ? [hash] : [];
      store.go(found.room);
      store.change(found.state);
      return found.unread;
    },

    /** @param {() => void} listener */
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  return store;
}

/** @typedef {ReturnType<typeof createStore>} Store */
