/** How the errors of room 5 grow with the mean, and where the mean is set. */

import { createChart, fromZero, logarithmic } from "./chart.js";
import * as digits from "./digits-model.js";
import { h, whenChanged } from "./dom.js";
import { createGrid } from "./grid.js";
import { shown } from "./numbers.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {digits.State} State */

const { TYPES, FORMULAS, MEANS } = digits;

/** @param {RoomContext} context */
export function createMean(context) {
  const grid = createGrid(
    {
      name: "mean",
      title: "Mean",
      rows: [""],
      columns: [""],
      quiet: true,
      refuse: digits.refuse.mean,
      edit: (_, __, value, gesture) => context.change({ mean: value }, gesture),
    },
    context,
  );
  const slider = h("input", {
    type: "range",
    min: 0,
    max: MEANS.length - 1,
    "aria-label": "Mean, from 0 to a million",
    "data-lm-suppress-shortcuts": "true",
    oninput: () => context.change({ mean: MEANS[Number(slider.value)] }, "mean"),
    onchange: context.settle,
  });
  return {
    element: h("div", { class: "playback mean" }, grid.element, slider),
    /** @param {State} state */
    update({ mean }) {
      grid.update([[mean]]);
      const nearest = MEANS.findLastIndex((each) => each <= mean);
      slider.value = String(nearest);
      slider.setAttribute("aria-valuetext", shown(mean, 7));
    },
  };
}

/**
 * The errors of all formulas over all means, a picture for each type.
 * @param {RoomContext} context
 */
export function createSweeps(context) {
  const pick = (/** @type {number} */ value) => {
    const nearest = MEANS.reduce((best, each) =>
      Math.abs(Math.log1p(each) - Math.log1p(value)) <
      Math.abs(Math.log1p(best) - Math.log1p(value))
        ? each
        : best,
    );
    context.change({ mean: nearest }, "pick");
  };
  const charts = TYPES.map((type) => ({
    type,
    chart: createChart({ title: type, height: 230, xTitle: "mean", pick, settle: context.settle }),
  }));
  const lines = [...FORMULAS, { id: "stored", name: "lost in x itself" }];
  const keys = lines.map(({ id, name }) =>
    h("li", {}, h("span", { class: `key line-${id}` }), name),
  );
  /** @type {State} */
  let state;
  /** @param {typeof charts[number]} of */
  function draw({ type, chart }) {
    const found = digits.sweep(state, type);
    chart.draw({
      x: fromZero(digits.MOST_MEAN),
      y: logarithmic(-8, 2, 2),
      lines: lines.toReversed().map(({ id }) => ({
        name: id,
        steady: true,
        points: found.map((each) => [
          each.mean,
          each[/** @type {keyof import("./digits-model.js").Computed["errors"]} */ (id)],
        ]),
      })),
      about: FORMULAS.map(({ id, name }) => {
        const lost = found.find((each) => !(each[id] < 0.1));
        return lost === undefined
          ? `${name} is never off by 0.1`
          : `${name} is off by 0.1 or more from a mean of ${shown(lost.mean)} on`;
      }).join(", "),
    });
  }

  let frame = 0;
  const redraw = whenChanged(() => {
    cancelAnimationFrame(frame);
    // A picture in each frame: all at once would be felt while one types.
    const waiting = [...charts];
    const next = () => {
      const chart = waiting.shift();
      if (chart === undefined) return;
      draw(chart);
      frame = requestAnimationFrame(next);
    };
    frame = requestAnimationFrame(next);
  });
  return {
    element: h(
      "div",
      {},
      h("ul", { class: "keys" }, ...keys),
      h("div", { class: "charts thirds" }, ...charts.map(({ chart }) => chart.element)),
      h(
        "p",
        { class: "hint" },
        "How far the worst y is from float64’s, of some means around each; both axes go by powers " +
          "of ten. Where a line ends, y is no number.",
      ),
    ),
    /** @param {State} next */
    update(next) {
      state = next;
      redraw(`${state.x} ${state.epsilon}`);
      for (const { chart } of charts) chart.move(state.mean);
    },
  };
}
