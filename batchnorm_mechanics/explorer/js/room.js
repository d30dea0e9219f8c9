/** What rooms are, what they are given, and the small parts that they share. */

import { h, unique } from "./dom.js";

/**
 * A room: see README.md.
 * @typedef {object} Room
 * @property {string} id in the address
 * @property {string} name in the list of rooms: a word or two
 * @property {string} title
 * @property {Record<string, import("./state.js").Field<any>>} fields of its state
 * @property {(state: any) => any} [mend] make fields fit each other
 * @property {(state: any, data: object) => string} python code that prints the numbers on the page
 * @property {(element: HTMLElement, context: RoomContext) =>
 *   (state: any) => import("./formula.js").Model} mount build it; returns what shows a state
 */

/**
 * What a room is given.
 * @typedef {object} RoomContext
 * @property {import("./formula.js").Inspector} inspector
 * @property {Map<string, HTMLElement>} cells by their ids; grids register theirs
 * @property {(part: object, gesture?: string | null) => void} change the state; see `Store.change`
 * @property {() => void} settle end a gesture
 * @property {() => void} refresh draw the state again
 * @property {(body: HTMLElement, build: () => void) => void} rebuild a part of the page; the focus
 *   goes to the cell, or what has the `data-key`, that had it
 * @property {object} data what Python gave with the page
 */

/**
 * Return names with numbers.
 * @param {string} name
 * @param {number} count
 */
export function named(name, count) {
  return Array.from({ length: count }, (_, index) => `${name} ${index + 1}`);
}

/**
 * Return what gives the part of a room that depends on the shape of the batch: it is built anew
 * when that changes.
 * @template Part
 * @param {RoomContext} context
 * @param {HTMLElement} body where it is
 * @param {(state: any) => Part} build
 * @returns {(state: { x: readonly (readonly number[])[] }) => Part}
 */
export function builtByShape(context, body, build) {
  let shape = "";
  /** @type {Part} */
  let part;
  return (state) => {
    const now = `${state.x.length} ${state.x[0].length}`;
    if (now !== shape) {
      shape = now;
      context.rebuild(body, () => {
        part = build(state);
      });
    }
    return part;
  };
}

/**
 * Return a paragraph of a room.
 * @param {string} words
 * @param {string} [kind]
 */
export function text(words, kind = "text") {
  return h("p", { class: kind }, words);
}

/**
 * Return a line that says how many there are of something, with buttons for one less and one more.
 * @param {string} name of one
 * @param {number} count
 * @param {number} most
 * @param {(by: number) => void} change
 */
export function stepper(name, count, most, change) {
  const step = (/** @type {string} */ sign, /** @type {number} */ by) => {
    const label = `One ${name} ${by > 0 ? "more" : "less"}`;
    const may = count + by >= 1 && count + by <= most;
    const onclick = () => change(by);
    const attributes = { type: "button", "aria-label": label, "data-key": label };
    return h("button", { ...attributes, disabled: !may, onclick }, sign);
  };
  const amount = h("span", {}, `${count} ${name}${count === 1 ? "" : "s"}`);
  return h("p", { class: "stepper" }, amount, step("−", -1), step("+", 1));
}

/**
 * Return a choice of one out of several.
 * @param {string} title
 * @param {readonly string[]} options
 * @param {(index: number) => void} change
 */
export function chooser(title, options, change) {
  const group = unique("choice");
  const inputs = options.map((option, index) =>
    h("input", {
      type: "radio",
      name: group,
      value: index,
      "data-key": `${title} ${option}`,
      onchange: () => change(index),
    }),
  );
  const labels = options.map((option, index) => h("label", {}, inputs[index], option));
  return {
    element: h("fieldset", {}, h("legend", {}, title), ...labels),
    /** @param {number} chosen */
    update(chosen) {
      inputs.forEach((input, index) => {
        input.checked = index === chosen;
      });
    },
  };
}

/** Return a list of remarks, which screen readers hear when it changes. */
export function remarks() {
  const element = h("ul", { class: "remarks", "aria-live": "polite" });
  return {
    element,
    /** @param {readonly string[]} lines */
    update(lines) {
      if (lines.join() === [...element.children].map((line) => line.textContent).join()) return;
      element.replaceChildren(...lines.map((line) => h("li", {}, line)));
    },
  };
}
