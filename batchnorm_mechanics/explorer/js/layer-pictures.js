/** Pictures of a layer: how its values are spread, over time or now, and how its statistics fit. */

import { h, s, say } from "./dom.js";
import { shown } from "./numbers.js";

const LEVELS = 8;

/**
 * Values over time: a column for each step, darker where there are more.
 * @param {string} title
 * @param {{low: number, high: number}} bins
 */
export function createHeat(title, { low, high }) {
  const cells = s("g");
  const cursor = s("rect", { class: "cursor", y: 0, width: 1 });
  const svg = s("svg", { class: "heat", role: "img", preserveAspectRatio: "none" }, cells, cursor);
  const scale = h(
    "span",
    { class: "heat-scale", "aria-hidden": "true" },
    ...[high, 0, low].map((value) => h("span", {}, shown(value))),
  );
  const element = h(
    "div",
    { class: "picture" },
    h("p", { class: "caption" }, title),
    h("div", { class: "heat-box" }, scale, svg),
  );
  /** @type {readonly (readonly number[])[] | undefined} */
  let drawn;
  return {
    element,
    /**
     * @param {readonly (readonly number[])[]} columns
     * @param {number} at
     */
    update(columns, at) {
      const bins = columns[0].length;
      if (columns !== drawn) {
        drawn = columns;
        svg.setAttribute("viewBox", `0 0 ${columns.length} ${bins}`);
        cursor.setAttribute("height", String(bins));
        const paths = Array(LEVELS + 1).fill("");
        columns.forEach((column, x) => {
          const most = Math.max(...column);
          column.forEach((count, bin) => {
            const level = Math.ceil(Math.sqrt(count / most) * LEVELS);
            if (level > 0) paths[level] += `M${x} ${bins - 1 - bin}h1v1h-1z`;
          });
        });
        cells.replaceChildren(
          ...paths
            .slice(1)
            .map((d, level) => s("path", { d, "fill-opacity": (level + 1) / LEVELS })),
        );
      }
      cursor.setAttribute("x", String(at));
      svg.setAttribute("aria-label", `${title}: ${spreadWords(columns[at], low, high)}`);
    },
  };
}

/**
 * Values now, as bars, and what they should be, as a line.
 * @param {string} title
 * @param {{low: number, high: number}} bins
 */
export function createSpread(title, { low, high }) {
  const bars = s("path", { class: "bars" });
  const line = s("path", { class: "outline", "vector-effect": "non-scaling-stroke" });
  const svg = s("svg", { class: "spread", role: "img", preserveAspectRatio: "none" }, bars, line);
  const words = h("p", { class: "hint" });
  const ends = h("p", { class: "ends", "aria-hidden": "true" });
  ends.append(...[low, 0, high].map((value) => h("span", {}, shown(value))));
  const element = h(
    "div",
    { class: "picture" },
    h("p", { class: "caption" }, title),
    svg,
    ends,
    words,
  );
  return {
    element,
    /**
     * @param {readonly number[]} density
     * @param {readonly number[]} [whole] of the layer as it should be
     */
    update(density, whole = []) {
      const most = Math.max(...(whole.length > 0 ? whole : density), 1) * 1.15;
      const up = (/** @type {number} */ count) => 1 - Math.min(count / most, 1);
      svg.setAttribute("viewBox", `0 0 ${density.length} 1`);
      bars.setAttribute("d", density.map((count, x) => `M${x} 1V${up(count)}h1V1z`).join(""));
      line.setAttribute(
        "d",
        whole.map((count, x) => `${x === 0 ? "M0 1" : ""}V${up(count)}h1`).join(""),
      );
      const about = spreadWords(density, low, high);
      svg.setAttribute("aria-label", `${title}: ${about}`);
      say(words, density.some((count) => count > 0) ? "" : about);
    },
  };
}

/**
 * Say where values lie.
 * @param {readonly number[]} density
 * @param {number} low
 * @param {number} high
 */
function spreadWords(density, low, high) {
  const total = density.reduce((sum, count) => sum + count, 0);
  if (total === 0) return "no value is a number";
  const width = (high - low) / density.length;
  const at = (/** @type {number} */ share) => {
    let sum = 0;
    const bin = density.findIndex((count) => {
      sum += count;
      return sum >= share * total;
    });
    return shown(low + (bin + 0.5) * width, 2);
  };
  return `half of the values from ${at(0.25)} to ${at(0.75)}`;
}

const FAR = 2;

/**
 * How each channel's moving statistics fit those of the batches: in the middle, where they do.
 * @param {string} title
 */
export function createTarget(title) {
  const dots = s("g", { class: "channels" });
  const svg = s(
    "svg",
    { class: "target", role: "img", viewBox: "-50 -50 100 100" },
    s("circle", { class: "ring", r: 12 }),
    s("path", { class: "cross", d: "M-48 0H48M0 -48V48" }),
    dots,
  );
  const words = h("p", { class: "hint" });
  const element = h("div", { class: "picture" }, h("p", { class: "caption" }, title), svg, words);
  return {
    element,
    /** @param {import("./network-model.js").Look} look */
    update({ shift = [], ratio = [] }) {
      const channels = shift.map((value, at) => ({ x: value, y: ratio[at] ?? null }));
      const known = channels.filter(({ x, y }) => x !== null && y !== null && y > 0);
      const clipped = (/** @type {number} */ value) => Math.min(Math.max(value / FAR, -1), 1) * 47;
      dots.replaceChildren(
        ...known.map(({ x, y }) =>
          s("circle", { r: 2.3, cx: clipped(Number(x)), cy: -clipped(Math.log2(Number(y))) }),
        ),
      );
      const off = known.filter(
        ({ x, y }) => Math.abs(Number(x)) > 0.5 || Math.abs(Math.log2(Number(y))) > 0.5,
      );
      const lost = channels.length - known.length;
      say(
        words,
        lost > 0
          ? `${lost} of ${channels.length} channels: not a number`
          : off.length === 0
            ? "all channels fit"
            : `${off.length} of ${channels.length} channels far off`,
      );
      svg.setAttribute("aria-label", `${title}: ${words.textContent}`);
    },
  };
}

/** Return the words that say how to read a target. */
export function targetHint() {
  return (
    "Each dot is a channel: to the right, its moving mean is too high; up, its moving spread is " +
    "too wide. In the middle both are the batches’. What is further off than the edge is drawn on it."
  );
}
