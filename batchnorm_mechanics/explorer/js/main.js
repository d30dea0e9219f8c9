/** The page: its rooms, one state, undo, the address, the formula panel, and “copy as Python”. */

import { h, say, unique } from "./dom.js";
import { createInspector } from "./formula.js";
import { roomAxes } from "./room-axes.js";
import { roomBatch } from "./room-batch.js";
import { roomDigits } from "./room-digits.js";
import { roomGradients } from "./room-gradients.js";
import { roomNetwork } from "./room-network.js";
import { roomTime } from "./room-time.js";
import { beginning, createStore } from "./state.js";

/** @typedef {import("./room.js").Room} Room */
/** @typedef {import("./room.js").RoomContext} RoomContext */

/** @type {readonly Room[]} */
export const ROOMS = [roomBatch, roomAxes, roomGradients, roomTime, roomDigits, roomNetwork];

/** Milliseconds after the last change of a gesture. */
const ADDRESS_AFTER = 150;

/**
 * Return what does something a while after it was last asked to, or at once.
 * @param {number} milliseconds
 * @param {() => void} act
 */
function delayed(milliseconds, act) {
  let timer = 0;
  const stop = () => window.clearTimeout(timer);
  return {
    start() {
      stop();
      timer = window.setTimeout(act, milliseconds);
    },
    now() {
      stop();
      act();
    },
    stop,
  };
}

/**
 * @typedef {object} MountOptions
 * @property {boolean} [address] whether the state is kept in the window's address
 * @property {object} [data] for the rooms
 */

/**
 * Put the explorer into an element.
 * @param {HTMLElement} host
 * @param {MountOptions} [options]
 */
export function mount(host, { address = false, data = {} } = {}) {
  const store = createStore(ROOMS);
  const current = () => /** @type {Room} */ (ROOMS.find((each) => each.id === store.room()));
  const inspector = createInspector();
  /** @type {Map<string, HTMLElement>} */
  const cells = new Map();
  const titleId = unique("room");
  const room = h("section", { class: "room", "aria-labelledby": titleId });
  const warning = h("p", { class: "warning", role: "alert" });
  warning.hidden = true;

  const button = (/** @type {string} */ text, /** @type {() => void} */ onclick) =>
    h("button", { type: "button", onclick }, text);
  const undo = button("Undo", store.undo);
  const redo = button("Redo", store.redo);
  const again = button("Start over", () => {
    store.settle();
    store.change(beginning(current()));
  });
  const dialog = createCode();
  const copy = button("Copy as Python", () => {
    dialog.open(current().python(store.state(), data));
  });
  const tabs = ROOMS.map((each, index) =>
    h(
      "a",
      {
        href: `#${each.id}`,
        onclick: (/** @type {MouseEvent} */ event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          if (address && each.id !== store.room()) {
            later.now();
            window.history.pushState(null, "", `#${each.id}`);
          }
          store.go(each.id);
        },
      },
      h("span", { class: "number", "aria-hidden": "true" }, `${index + 1}`),
      each.name,
    ),
  );

  const root = h(
    "div",
    { class: "bnm-explorer" },
    h(
      "header",
      {},
      h("h1", { class: "brand" }, "BatchNorm Mechanics", h("span", {}, " explorer")),
      h("nav", { "aria-label": "Rooms" }, ...tabs),
      h("div", { class: "tools", role: "group", "aria-label": "Tools" }, undo, redo, again, copy),
    ),
    h("main", {}, warning, room),
    inspector.element,
    dialog.element,
  );
  host.replaceChildren(root);

  /** @type {((state: any) => import("./formula.js").Model) | undefined} */
  let show;
  let mounted = "";

  /** @type {RoomContext} */
  const context = {
    inspector,
    cells,
    change: store.change,
    settle() {
      store.settle();
      if (address) later.now();
    },
    refresh: draw,
    rebuild(body, build) {
      const active = body.contains(document.activeElement) ? document.activeElement : null;
      const kept = /** @type {HTMLElement | null} */ (active)?.dataset;
      for (const [id, cell] of cells) if (body.contains(cell)) cells.delete(id);
      build();
      inspector.watch(cells);
      const again =
        kept?.cell !== undefined
          ? body.querySelector(`[data-cell="${kept.cell}"]`)
          : kept?.key !== undefined
            ? body.querySelector(`[data-key="${kept.key}"]`)
            : null;
      if (again instanceof HTMLElement) again.focus({ preventScroll: true });
    },
    data,
  };

  function enter() {
    const entered = current();
    mounted = entered.id;
    cells.clear();
    const number = h(
      "span",
      { class: "number", "aria-hidden": "true" },
      `${ROOMS.indexOf(entered) + 1}`,
    );
    const title = h("h2", { id: titleId, tabindex: "-1" }, number, entered.title);
    room.replaceChildren(title);
    show = entered.mount(room, context);
    inspector.watch(cells);
    tabs.forEach((tab, index) => {
      const here = ROOMS[index] === entered;
      tab.toggleAttribute("aria-current", here);
      if (here) tab.setAttribute("aria-current", "page");
    });
  }

  function draw() {
    if (store.room() !== mounted) enter();
    const model = show?.(store.state());
    if (model !== undefined) inspector.update(model);
    const can = store.can();
    undo.disabled = !can.undo;
    redo.disabled = !can.redo;
    again.disabled = store.address() === `#${store.room()}`;
    if (address) later.start();
  }

  // Browsers refuse an address that changes more often than a few times a second.
  const later = delayed(ADDRESS_AFTER, () => {
    if (located() !== store.address()) {
      window.history.replaceState(window.history.state, "", store.address());
    }
  });

  const located = () => window.location.hash || `#${ROOMS[0].id}`;

  function follow() {
    told(store.follow(window.location.hash));
  }

  /** @param {string[]} unread */
  function told(unread) {
    warning.hidden = unread.length === 0;
    say(
      warning,
      unread.length === 0
        ? ""
        : `The address could not be read in full: ${unread.join(", ")}. What is missing has its first value.`,
    );
    draw();
  }

  /** @param {KeyboardEvent} event */
  function keys(event) {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key !== "z" && key !== "y") return;
    event.preventDefault();
    event.stopPropagation();
    store.settle();
    if (key === "y" || event.shiftKey) store.redo();
    else store.undo();
  }

  root.addEventListener("keydown", keys);
  if (address) {
    window.addEventListener("hashchange", follow);
    window.addEventListener("popstate", follow);
    told(store.begin(window.location.hash));
  } else draw();
  const stop = store.subscribe(draw);

  return {
    store,
    destroy() {
      stop();
      later.stop();
      window.removeEventListener("hashchange", follow);
      window.removeEventListener("popstate", follow);
      host.replaceChildren();
    },
  };
}

/** A dialog that shows code, and copies it. */
function createCode() {
  const titleId = unique("code");
  const text = h("textarea", {
    readonly: true,
    rows: 16,
    spellcheck: "false",
    "aria-label": "Python code",
  });
  const done = h("span", { role: "status" });
  const element = h(
    "dialog",
    { class: "code", "aria-labelledby": titleId },
    h("h2", { id: titleId }, "The numbers on the page, in Python"),
    text,
    h(
      "p",
      { class: "actions" },
      h("button", { type: "button", class: "primary", onclick: copy }, "Copy"),
      h("button", { type: "button", onclick: () => element.close() }, "Close"),
      done,
    ),
  );

  async function copy() {
    text.select();
    try {
      await navigator.clipboard.writeText(text.value);
      say(done, "Copied.");
    } catch {
      say(done, "Selected: press Ctrl+C to copy it.");
    }
  }
  return {
    element,
    /** @param {string} code */
    open(code) {
      text.value = code;
      say(done, "");
      element.showModal();
      text.select();
    },
  };
}
