/**
 * One channel as a fan: samples on a line of x above, their outputs on a line of y below. A sample
 * is dragged; rings mark where the outputs were, so that one sees which of them move.
 */

import { h, s } from "./dom.js";
import { stepOf, stepped } from "./editing.js";
import { exact, shown } from "./numbers.js";

const WIDTH = 320;
const HEIGHT = 190;
const MARGIN = 22;
const TOP = 46;
const BOTTOM = 150;

/** @typedef {{x: readonly number[], y: readonly number[], mean: number}} Channel */
/** @typedef {{low: number, high: number}} Range */

/**
 * Return a range with room on both sides.
 * @param {readonly number[]} values
 * @returns {Range}
 */
export function rangeOf(values) {
  const finite = values.filter(Number.isFinite);
  const [low, high] = finite.length > 0 ? [Math.min(...finite), Math.max(...finite)] : [0, 0];
  const space = Math.max((high - low) * 0.25, 0.5);
  return { low: low - space, high: high + space };
}

/**
 * Return a fan.
 * @param {object} spec
 * @param {string} spec.title
 * @param {string} spec.mean what the mark on the line of x is
 * @param {(sample: number, value: number, gesture: string) => void} spec.edit
 * @param {() => void} spec.begin a gesture begins
 * @param {() => void} spec.settle it has ended
 */
export function createFan({ title, mean, edit, begin, settle }) {
  const links = s("g", { class: "links" });
  const rings = s("g", { class: "rings" });
  const outputs = s("g", { class: "outputs" });
  const inputs = s("g", { class: "inputs" });
  const mark = s("path", { class: "mean", d: "M0 0 l-5 9 h10 z" });
  const ends = ["x", "y"].map((name, line) => {
    const at = line === 0 ? TOP : BOTTOM;
    return s(
      "g",
      { class: "axis" },
      s("line", { x1: MARGIN - 8, x2: WIDTH - MARGIN + 8, y1: at, y2: at }),
      s("text", { x: 4, y: at + 4, class: "axis-name" }, name),
    );
  });
  const labels = s("g", { class: "labels" });
  const svg = s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": title },
    ...ends,
    links,
    rings,
    mark,
    labels,
    outputs,
    inputs,
  );
  const element = h(
    "figure",
    { class: "fan" },
    h("figcaption", {}, title, h("span", {}, mean)),
    svg,
  );

  /** @type {{x: Range, y: Range}} */
  let ranges = { x: rangeOf([]), y: rangeOf([]) };
  /** @type {readonly number[] | null} */
  let before = null;
  /** @type {Channel} */
  let now = { x: [], y: [], mean: 0 };
  /** @type {SVGCircleElement[]} */
  let handles = [];
  /** @type {number | null} */
  let dragged = null;

  const across = (/** @type {number} */ value, /** @type {Range} */ { low, high }) => {
    const share = Number.isFinite(value) ? (value - low) / (high - low) : 0.5;
    return MARGIN + Math.min(Math.max(share, -0.05), 1.05) * (WIDTH - 2 * MARGIN);
  };

  /** @param {PointerEvent} event */
  function valueAt(event) {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDTH;
    const share = (at - MARGIN) / (WIDTH - 2 * MARGIN);
    const { low, high } = ranges.x;
    const step = stepOf(high - low);
    return Number((Math.round((low + share * (high - low)) / step) * step).toPrecision(6));
  }

  /** @param {number} sample */
  function handle(sample) {
    const circle = s("circle", {
      r: 9,
      cy: TOP,
      tabindex: 0,
      role: "slider",
      "aria-label": `Sample ${sample + 1}, ${title}: move x`,
      onpointerdown: (/** @type {PointerEvent} */ event) => {
        event.preventDefault();
        circle.setPointerCapture(event.pointerId);
        circle.focus();
        dragged = sample;
        begin();
      },
      onpointermove: (/** @type {PointerEvent} */ event) => {
        if (dragged === sample) edit(sample, valueAt(event), `fan.${sample}`);
      },
      onpointerup: () => {
        dragged = null;
        settle();
      },
      onpointercancel: () => {
        dragged = null;
        settle();
      },
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
        if (way === undefined) return;
        event.preventDefault();
        begin();
        const steps = event.shiftKey ? 10 * way : 2 * way;
        edit(sample, stepped(now.x[sample], steps), `fan.${sample}`);
      },
      onblur: settle,
    });
    return circle;
  }

  return {
    element,
    /** Keep the outputs of now, to show how far they move. */
    remember() {
      before = now.y;
    },
    forget() {
      before = null;
      rings.replaceChildren();
    },
    /**
     * @param {Channel} channel
     * @param {{x: Range, y: Range}} scale of both lines
     */
    update(channel, scale) {
      now = channel;
      ranges = scale;
      if (before?.length !== channel.y.length) before = null;
      if (handles.length !== channel.x.length) {
        handles = channel.x.map((_, sample) => handle(sample));
        inputs.replaceChildren(...handles);
      }
      links.replaceChildren();
      rings.replaceChildren();
      outputs.replaceChildren();
      labels.replaceChildren();
      channel.x.forEach((x, sample) => {
        const [from, to] = [across(x, scale.x), across(channel.y[sample], scale.y)];
        const lost = Number.isFinite(channel.y[sample]) ? "" : "is-lost";
        handles[sample].setAttribute("cx", String(from));
        handles[sample].setAttribute("aria-valuenow", exact(x));
        handles[sample].setAttribute("aria-valuemin", exact(scale.x.low));
        handles[sample].setAttribute("aria-valuemax", exact(scale.x.high));
        handles[sample].setAttribute(
          "aria-valuetext",
          `x ${shown(x)}, y ${shown(channel.y[sample])}`,
        );
        links.append(s("line", { class: lost, x1: from, y1: TOP, x2: to, y2: BOTTOM }));
        outputs.append(s("circle", { class: lost, r: 6, cx: to, cy: BOTTOM }));
        const was = before?.[sample];
        if (was !== undefined && Number.isFinite(was) && !Object.is(was, channel.y[sample])) {
          rings.append(s("circle", { r: 6, cx: across(was, scale.y), cy: BOTTOM }));
        }
        if (channel.x.length <= 6) {
          labels.append(
            s("text", { x: from, y: TOP - 15, "text-anchor": "middle" }, shown(x, 3)),
            s(
              "text",
              { x: to, y: BOTTOM + 22, "text-anchor": "middle" },
              shown(channel.y[sample], 3),
            ),
          );
        }
      });
      const at = across(channel.mean, scale.x);
      mark.setAttribute("transform", `translate(${at} ${TOP + 3})`);
      const inside = channel.mean >= scale.x.low && channel.mean <= scale.x.high;
      mark.setAttribute("visibility", inside ? "visible" : "hidden");
    },
    get before() {
      return before;
    },
  };
}
