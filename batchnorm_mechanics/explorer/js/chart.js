/** Charts of lines: drawn for the width that there is, so that their letters keep their size. */

import { h, s, unique } from "./dom.js";
import { shown } from "./numbers.js";

/**
 * An axis: where a value stands between its ends, the reverse, and the values that are named.
 * @typedef {object} Scale
 * @property {(value: number) => number} share 0 at its low end and 1 at its high one
 * @property {(share: number) => number} value
 * @property {readonly number[]} ticks
 */

/**
 * @typedef {object} Line
 * @property {string} name ends the class `line-…`, which has its colour
 * @property {readonly (readonly [number, number])[]} points what is not finite leaves a gap
 * @property {boolean} [dots] whether its points are dots and no line
 * @property {boolean} [steady] whether it is not cut at the cursor
 */

/**
 * @typedef {object} Drawing
 * @property {Scale} x
 * @property {Scale} y
 * @property {readonly Line[]} lines
 * @property {readonly {at: number, words: string}[]} [marks] lines from top to bottom
 * @property {readonly {line: string, point: readonly [number, number]}[]} [rings]
 * @property {string} about what screen readers hear
 */

/**
 * Return an axis with even steps.
 * @param {number} low
 * @param {number} high
 * @returns {Scale}
 */
export function linear(low, high) {
  const size = Math.max(high - low, 1e-30);
  const rough = size / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5].find((each) => each * power >= rough) ?? 10) * power;
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return {
    share: (value) => (value - low) / size,
    value: (share) => low + share * size,
    ticks: Array.from({ length: count }, (_, at) => Number(((first + at) * step).toPrecision(12))),
  };
}

/**
 * Return an axis whose steps are powers of ten, from a power of ten to another.
 * @param {number} low exponent
 * @param {number} high exponent
 * @param {number} [every] so many are named
 * @returns {Scale}
 */
export function logarithmic(low, high, every = 1) {
  return {
    share: (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low),
    value: (share) => 10 ** (low + share * (high - low)),
    ticks: Array.from({ length: Math.floor((high - low) / every) + 1 }, (_, at) =>
      Number(`1e${high - at * every}`),
    ),
  };
}

/**
 * Return an axis that begins with 0, and goes on in powers of ten.
 * @param {number} end
 * @returns {Scale}
 */
export function fromZero(end) {
  const most = Math.log10(1 + end);
  return {
    share: (value) => Math.log10(1 + Math.max(value, 0)) / most,
    value: (share) => 10 ** (share * most) - 1,
    ticks: [0, ...Array.from({ length: Math.floor(Math.log10(end)) + 1 }, (_, at) => 10 ** at)],
  };
}

/**
 * Return the range of numbers, with some room.
 * @param {readonly number[]} values
 * @param {number} [most] what is further from 0 is left out
 */
export function rangeOf(values, most = Number.POSITIVE_INFINITY) {
  const finite = values.filter((value) => Math.abs(value) < most);
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  if (finite.length === 0) return { low: 0, high: 1 };
  const space = (high - low) * 0.06 || 0.5;
  return { low: low - space, high: high + space };
}

const MARGIN = { left: 44, right: 10, top: 16, bottom: 24 };

/**
 * Return a chart.
 * @param {object} spec
 * @param {string} spec.title
 * @param {number} spec.height
 * @param {string} [spec.xTitle] what the axis below shows
 * @param {(value: number) => void} [spec.pick] called with where on that axis it is pressed
 * @param {() => void} [spec.settle] it is released
 */
export function createChart({ title, height, xTitle, pick, settle = () => {} }) {
  const clip = unique("chart");
  const window_ = s("rect", { x: 0, y: 0, height });
  const still = s("g", { class: "still" });
  const faint = s("g", { class: "faint" });
  const clear = s("g", { "clip-path": `url(#${clip})` });
  const rings = s("g", { class: "chart-rings" });
  const cursor = s("line", { class: "cursor", y1: MARGIN.top - 6, y2: height - MARGIN.bottom });
  const svg = s(
    "svg",
    // Until it is drawn, which tells more.
    { class: "chart", role: "img", "aria-label": title, height },
    s("clipPath", { id: clip }, window_),
    still,
    faint,
    clear,
    rings,
    cursor,
  );
  const caption = h("figcaption", {}, title);
  if (xTitle) caption.append(h("span", { class: "hint" }, xTitle));
  const element = h("figure", { class: "chart-box" }, caption, svg);

  let width = 640;
  /** @type {Drawing | undefined} */
  let drawing;
  /** @type {number | null} */
  let at = null;

  const across = (/** @type {number} */ value) =>
    MARGIN.left + (drawing?.x.share(value) ?? 0) * (width - MARGIN.left - MARGIN.right);
  const up = (/** @type {number} */ value) =>
    height - MARGIN.bottom - (drawing?.y.share(value) ?? 0) * (height - MARGIN.top - MARGIN.bottom);

  /** @param {Line} line */
  function drawn({ name, points, dots }) {
    if (dots) {
      const own = points.filter((point) => point.every(Number.isFinite));
      // One path of strokes without length: a thousand circles take long to make.
      const d = own.map(([x, y]) => `M${across(x).toFixed(1)} ${up(y).toFixed(1)}h0`).join("");
      return s("path", { class: `dots line-${name}`, d });
    }
    let path = "";
    let pen = "M";
    for (const [x, y] of points) {
      if (Number.isFinite(y)) path += `${pen}${across(x).toFixed(1)} ${up(y).toFixed(1)}`;
      pen = Number.isFinite(y) ? "L" : "M";
    }
    return s("path", { class: `line-${name}`, d: path });
  }

  function axes() {
    if (drawing === undefined) return [];
    const bottom = height - MARGIN.bottom;
    const room = (width - MARGIN.left - MARGIN.right) / 52;
    const every = Math.max(Math.ceil(drawing.x.ticks.length / room), 1);
    return [
      ...drawing.y.ticks.flatMap((tick) => [
        s("line", {
          class: "rule",
          x1: MARGIN.left,
          x2: width - MARGIN.right,
          y1: up(tick),
          y2: up(tick),
        }),
        s("text", { x: MARGIN.left - 7, y: up(tick) + 4, "text-anchor": "end" }, short(tick)),
      ]),
      ...drawing.x.ticks.flatMap((tick, index) =>
        index % every === 0
          ? [s("text", { x: across(tick), y: bottom + 17, "text-anchor": "middle" }, short(tick))]
          : [],
      ),
      ...(drawing.marks ?? []).flatMap(({ at: where, words }) => {
        const end = across(where) > width * 0.7;
        const place = { x: across(where) + (end ? -5 : 5), y: MARGIN.top - 4 };
        return [
          s("line", { class: "mark", x1: across(where), x2: across(where), y1: 2, y2: bottom }),
          s("text", { ...place, "text-anchor": end ? "end" : "start" }, words),
        ];
      }),
    ];
  }

  function redraw() {
    if (drawing === undefined) return;
    const { lines } = drawing;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", `${title}. ${drawing.about}`);
    still.replaceChildren(...axes(), ...lines.filter((line) => line.steady).map(drawn));
    const moving = lines.filter((line) => !line.steady);
    faint.replaceChildren(...moving.map(drawn));
    clear.replaceChildren(...moving.map(drawn));
    rings.replaceChildren(
      ...(drawing.rings ?? []).map(({ line, point: [x, y] }) =>
        s("circle", { class: `line-${line}`, r: 4.5, cx: across(x), cy: up(y) }),
      ),
    );
    move();
  }

  function move() {
    const to = at === null ? width : across(at);
    window_.setAttribute("width", String(Math.max(to, 0)));
    cursor.toggleAttribute("hidden", at === null);
    cursor.setAttribute("x1", String(to));
    cursor.setAttribute("x2", String(to));
  }

  if (pick !== undefined) {
    let held = false;
    const take = (/** @type {PointerEvent} */ event) => {
      const place = event.clientX - svg.getBoundingClientRect().left;
      const share = (place - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
      if (drawing !== undefined) pick(drawing.x.value(Math.min(Math.max(share, 0), 1)));
    };
    svg.classList.add("is-picked");
    svg.addEventListener("pointerdown", (event) => {
      held = true;
      svg.setPointerCapture(event.pointerId);
      take(event);
    });
    svg.addEventListener("pointermove", (event) => {
      if (held) take(event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      svg.addEventListener(end, () => {
        held = false;
        settle();
      });
    }
  }
  new ResizeObserver(() => {
    const now = svg.clientWidth;
    if (now === 0 || now === width) return;
    width = now;
    redraw();
  }).observe(svg);

  return {
    element,
    /**
     * Draw lines; those that are the same object as the last time are left as they are.
     * @param {Drawing} next
     */
    draw(next) {
      if (next === drawing) return;
      drawing = next;
      redraw();
    },
    /**
     * Put the cursor somewhere: what is behind it is faint.
     * @param {number | null} where
     */
    move(where) {
      at = where;
      move();
    },
  };
}

/** @param {number} value */
function short(value) {
  const size = Math.abs(value);
  return size >= 1e5 || (size < 1e-3 && value !== 0)
    ? value.toExponential(0).replace("e+", "e").replaceAll("-", "−")
    : shown(value, 4);
}
