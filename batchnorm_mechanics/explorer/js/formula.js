/**
 * The panel that opens a cell: where its number comes from, with the numbers put in; and the lights
 * on the cells that it was made of, and on those that depend on it.
 */

import { h, say } from "./dom.js";

/**
 * What a room says of one of its cells.
 * @typedef {object} Explanation
 * @property {string} title what the number is
 * @property {string} [formula] in symbols
 * @property {string} [numbers] the same with the numbers put in
 * @property {string} result
 * @property {string} [note]
 */

/**
 * What a room knows of its cells in one state.
 * @typedef {object} Model
 * @property {(cell: string) => Explanation | undefined} explain
 * @property {(cell: string) => readonly string[]} from the cells that a number was computed from
 * @property {string} [wiring] changes when `from` answers otherwise than before, for the same cells
 */

const HINT =
  "Point at a number, or go to it with Tab and the arrow keys: its formula opens here, and the " +
  "numbers that it comes from and those that depend on it light up.";

/** @type {readonly (readonly [string, string])[]} */
const SPOKEN = [
  ["dx̂", "gradient of x hat"],
  ["dx", "gradient of x"],
  ["dy", "gradient of y"],
  ["dμ", "gradient of the mean"],
  ["dσ²", "gradient of the variance"],
  ["dγ", "gradient of gamma"],
  ["dβ", "gradient of beta"],
  ["x̂", "x hat"],
  ["σ²", "variance"],
  ["μ", "mean"],
  ["γ", "gamma"],
  ["β", "beta"],
  ["ε", "epsilon"],
  ["√", " square root of "],
  ["Σ", " sum of "],
  ["·", "times"],
  ["/", " over "],
  ["²", " squared"],
  ["³", " cubed"],
  ["−", "minus "],
];

/**
 * Return a formula in words, for screen readers, which skip most of its signs.
 * @param {string} formula
 */
export function spoken(formula) {
  let words = formula;
  for (const [sign, word] of SPOKEN) words = words.replaceAll(sign, word);
  return words.replace(/\s+/g, " ").trim();
}

/**
 * Return all cells that depend on one, directly or not.
 * @param {string} cell
 * @param {Iterable<string>} cells all there are
 * @param {Model["from"]} from
 */
export function dependents(cell, cells, from) {
  /** @type {Map<string, string[]>} */
  const into = new Map();
  for (const each of cells) {
    for (const source of from(each)) {
      const found = into.get(source);
      if (found === undefined) into.set(source, [each]);
      else found.push(each);
    }
  }
  /** @type {Set<string>} */
  const found = new Set();
  const waiting = [cell];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    for (const each of into.get(next) ?? []) {
      if (!found.has(each)) {
        found.add(each);
        waiting.push(each);
      }
    }
  }
  found.delete(cell);
  return found;
}

const LIGHTS = ["is-shown", "is-source", "is-dependent"];

/**
 * Return the panel for a page: one for all rooms.
 *
 * A cell that has the focus is shown until another has; one that is pointed at, for so long.
 */
export function createInspector() {
  const title = h("p", { class: "title" });
  const formula = h("span", { class: "symbols" });
  const numbers = h("span", { class: "numbers" });
  const result = h("strong", { class: "result" });
  const note = h("p", { class: "remark" });
  const heard = h("p", { class: "unseen", role: "status" });
  const seen = h("div", { class: "seen", "aria-hidden": "true" });
  seen.append(title, h("p", { class: "working" }, formula, numbers, result), note);
  const element = h("aside", { class: "inspector", "aria-label": "Formula" }, seen, heard);

  /** @type {Map<string, HTMLElement>} */
  let cells = new Map();
  /** @type {Model | undefined} */
  let model;
  /** @type {string | null} */
  let focused = null;
  /** @type {string | null} */
  let pointed = null;
  /** What is lit: following each dependency takes longer than all arithmetic. */
  let lit = "";

  function show() {
    const cell = pointed ?? focused;
    const about = cell === null ? undefined : model?.explain(cell);
    say(title, about?.title ?? HINT);
    say(formula, about?.formula ?? "");
    say(numbers, about?.numbers === undefined ? "" : `= ${about.numbers}`);
    say(result, about === undefined ? "" : `= ${about.result}`);
    say(note, about?.note ?? "");
    element.classList.toggle("is-empty", about === undefined);
    const { formula: symbols = "", numbers: put = "", note: remark = "" } = about ?? {};
    const words = [about?.title, symbols, put, about && `equals ${about.result}`, remark];
    say(heard, spoken(words.filter((word) => word).join(", ")));
    light(about === undefined ? null : cell);
  }

  /** @param {string | null} cell */
  function light(cell) {
    const next = `${cell} ${model?.wiring}`;
    if (next === lit) return;
    lit = next;
    for (const each of cells.values()) each.classList.remove(...LIGHTS);
    if (cell === null || model === undefined) return;
    cells.get(cell)?.classList.add("is-shown");
    for (const source of model.from(cell)) cells.get(source)?.classList.add("is-source");
    for (const each of dependents(cell, cells.keys(), model.from)) {
      cells.get(each)?.classList.add("is-dependent");
    }
  }

  return {
    element,
    /**
     * Begin with another room's cells, or with none.
     * @param {Map<string, HTMLElement>} of
     */
    watch(of) {
      cells = of;
      lit = "";
      [focused, pointed, model] = [null, null, undefined];
      show();
    },
    /**
     * Take what a new state says of the cells.
     * @param {Model} now
     */
    update(now) {
      model = now;
      show();
    },
    /** @param {string | null} cell */
    focus(cell) {
      focused = cell;
      show();
    },
    /** @param {string | null} cell */
    point(cell) {
      pointed = cell;
      show();
    },
  };
}

/** @typedef {ReturnType<typeof createInspector>} Inspector */
