/** A table of numbers that is walked with the arrow keys; its cells open in the formula panel. */

import { h, keepKeys, unique } from "./dom.js";
import { numberInput } from "./editing.js";
import { brief, exact } from "./numbers.js";

/** @typedef {import("./formula.js").Inspector} Inspector */

/**
 * @typedef {object} GridSpec
 * @property {string} name begins the ids of its cells: `name.row.column`
 * @property {string} title
 * @property {string} [hint] beside the title, in small letters
 * @property {readonly string[]} rows their names
 * @property {readonly string[]} columns
 * @property {boolean} [quiet] whether the names of the columns are for screen readers alone
 * @property {boolean} [coloured] whether sign and size colour the cells; else `--hue` does
 * @property {(value: number) => string} [written] how its numbers are shown, if not as `brief` does
 * @property {string} [origin] who computed the numbers, if not this page
 * @property {(row: number, column: number, value: number, gesture: string) => void} [edit]
 * @property {(value: number, column: number) => string | null} [refuse] why a number cannot be
 */

/**
 * @typedef {object} Surroundings what a grid needs of the page
 * @property {Inspector} inspector
 * @property {Map<string, HTMLElement>} cells where it registers its own
 * @property {() => void} settle
 */

/**
 * Return a grid.
 * @param {GridSpec} spec
 * @param {Surroundings} page
 */
export function createGrid(spec, { inspector, cells, settle }) {
  const { written = brief } = spec;
  const key = unique("grid");
  const note = h("p", { class: "note", id: `${key}-note`, role: "status" });
  /** @type {HTMLElement[][]} */
  const stops = [];
  /** @type {((value: number, share: number) => void)[][]} */
  const setters = [];

  /**
   * @param {number} row
   * @param {number} column
   */
  function cell(row, column) {
    const id = `${spec.name}.${row}.${column}`;
    const label = [spec.title, spec.rows[row], spec.columns[column]].filter(Boolean).join(", ");
    const element = h("td", { role: "gridcell" });
    /** @type {HTMLElement} */
    let stop = element;
    /** @type {(value: number) => void} */
    let put;
    if (spec.edit === undefined) {
      element.dataset.cell = id;
      keepKeys(element);
      put = (value) => {
        const words = written(value);
        if (element.textContent === words) return;
        element.textContent = words;
        element.setAttribute("aria-label", `${label}: ${words}`);
      };
    } else {
      const { edit, refuse = () => null } = spec;
      const change = (/** @type {number} */ value, /** @type {string} */ gesture) =>
        edit(row, column, value, gesture);
      const refused = (/** @type {number} */ value) => refuse(value, column);
      const editor = numberInput({ id, label, edit: change, settle, refuse: refused, note });
      element.classList.add("is-editable");
      element.append(editor.input);
      stop = editor.input;
      put = editor.update;
    }
    stop.tabIndex = row === 0 && column === 0 ? 0 : -1;
    stop.addEventListener("focus", () => {
      for (const each of stops.flat()) each.tabIndex = each === stop ? 0 : -1;
      inspector.focus(id);
    });
    stop.addEventListener("keydown", (event) => {
      const to = neighbour(event, row, column);
      if (to === null) return;
      event.preventDefault();
      goTo(stops[to[0]][to[1]]);
    });
    element.addEventListener("pointerenter", () => inspector.point(id));
    element.addEventListener("pointerleave", () => inspector.point(null));
    cells.set(id, element);
    stops[row][column] = stop;
    /** @type {number | undefined} */
    let now;
    let colour = "";
    setters[row][column] = (value, share) => {
      if (!Object.is(value, now)) {
        now = value;
        element.dataset.value = exact(value);
        element.classList.toggle("is-lost", /nan|inf/.test(written(value)));
      }
      // An input looks itself what to show: it may hold what is no number.
      put(value);
      if (spec.coloured === false) return;
      const next = (value < 0 ? -share : share).toFixed(2);
      if (next === colour) return;
      colour = next;
      element.style.setProperty("--share", share.toFixed(2));
      element.classList.toggle("is-negative", value < 0);
    };
    return element;
  }

  /**
   * Return where a key leads, or null: within a text, its own keys come first.
   * @param {KeyboardEvent} event
   * @param {number} row
   * @param {number} column
   */
  function neighbour(event, row, column) {
    if (event.altKey || event.metaKey || event.shiftKey) return null;
    const [last, end] = [spec.rows.length - 1, spec.columns.length - 1];
    const far = event.ctrlKey;
    const { target, key } = event;
    if (target instanceof HTMLInputElement && !mayLeave(target, key)) return null;
    /** @type {Record<string, [number, number]>} */
    const ways = {
      ArrowUp: [far ? 0 : row - 1, column],
      ArrowDown: [far ? last : row + 1, column],
      Enter: [row + 1, column],
      ArrowLeft: [row, far ? 0 : column - 1],
      ArrowRight: [row, far ? end : column + 1],
      Home: [far ? 0 : row, 0],
      End: [far ? last : row, end],
    };
    const to = ways[key];
    return to !== undefined && stops[to[0]]?.[to[1]] !== undefined ? to : null;
  }

  const corner = h("td", { class: "corner" });
  const heading = (/** @type {string} */ scope, /** @type {string} */ name) =>
    name === "" ? h("td", { class: "corner" }) : h("th", { scope }, name);
  const names = spec.columns.map((name) => heading("col", name));
  const body = spec.rows.map((name, row) => {
    [stops[row], setters[row]] = [[], []];
    const own = spec.columns.map((_, column) => cell(row, column));
    return h("tr", {}, heading("row", name), ...own);
  });
  const head = h("thead", { class: spec.quiet ? "unseen" : "" }, h("tr", {}, corner, ...names));
  const title = h("p", { class: "caption", id: `${key}-title` }, spec.title);
  if (spec.hint) title.append(" ", h("span", { class: "hint" }, spec.hint));
  const table = h(
    "table",
    {
      role: "grid",
      "aria-labelledby": `${key}-title`,
      class: spec.rows.every((name) => name === "") ? "is-bare" : "",
    },
    head,
    h("tbody", {}, ...body),
  );
  const origin = spec.origin ? h("p", { class: "origin" }, spec.origin) : null;
  const scroll = h("div", { class: "scroll" }, table);
  const colours = spec.coloured === false ? "by-group" : "by-value";
  const element = h("section", { class: `grid ${colours}` }, title, scroll, origin, note);

  return {
    element,
    /**
     * Show a state's numbers, coloured by sign and size.
     * @param {readonly (readonly number[])[]} rows
     */
    update(rows) {
      const sizes = rows.flat().map(Math.abs).filter(Number.isFinite);
      const largest = Math.max(...sizes, 0);
      rows.forEach((values, row) => {
        values.forEach((value, column) => {
          const share = largest > 0 && Number.isFinite(value) ? Math.abs(value) / largest : 0;
          setters[row][column](value, share);
        });
      });
    },
  };
}

/**
 * Return whether an arrow leaves a text: up and down always, sideways from its end.
 * @param {HTMLInputElement} input
 * @param {string} key
 */
function mayLeave(input, key) {
  const { selectionStart: from, selectionEnd: to, value } = input;
  const whole = from === 0 && to === value.length;
  if (key === "ArrowLeft" || key === "Home") return whole || to === 0;
  if (key === "ArrowRight" || key === "End") return whole || from === value.length;
  return true;
}

/** @param {HTMLElement} stop */
function goTo(stop) {
  stop.focus();
  if (stop instanceof HTMLInputElement) stop.select();
}

/** @typedef {ReturnType<typeof createGrid>} Grid */
