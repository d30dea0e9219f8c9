/** Room 4: what five policies make of batches that come one after another. */

import { createChart, linear, rangeOf } from "./chart.js";
import { h, say, whenChanged } from "./dom.js";
import { createGrid } from "./grid.js";
import { brief, shown } from "./numbers.js";
import { ownModel } from "./own.js";
import { createPlayback } from "./playback.js";
import { remarks, text } from "./room.js";
import { model, percent } from "./time-cells.js";
import * as time from "./time-model.js";
import { createParts } from "./time-parts.js";
import { createSettings } from "./time-settings.js";
import * as words from "./time-words.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {time.State} State */

/**
 * @param {State} state
 * @param {object} data
 */
function layerOf(state, data) {
  const layer = ownModel(data)?.layers[state.layer];
  return layer !== undefined && state.channel < layer.channels ? layer : undefined;
}

/** @type {import("./room.js").Room} */
export const roomTime = {
  id: "statistics",
  name: "Over time",
  title: "Statistics over time",
  fields: time.fields,
  mend: time.mend,
  python: (state, data) => words.code(state, layerOf(state, data)),

  mount(element, context) {
    const { data } = context;
    const saying = h("p", { class: "saying" });
    const playback = createPlayback({
      name: "batch",
      change: (at, gesture) => context.change({ at }, gesture),
      settle: context.settle,
    });
    const charts = createCharts(context);
    const parts = createParts();
    const batch = createGrid(
      {
        name: "batch",
        title: "The batch that has just come",
        rows: [""],
        columns: ["samples", "mean", "variance"],
      },
      context,
    );
    const readings = createGrid(
      {
        name: "read",
        title: "What each policy would give to inference",
        rows: time.POLICIES.map(({ name }) => name),
        columns: ["mean", "variance", "trust from", "after jump"],
        coloured: false,
        origin: "Computed on this page, by each one’s rule.",
        written: (value) =>
          Number.isFinite(value) ? brief(value) : Number.isNaN(value) ? "–" : "never",
      },
      context,
    );
    const settings = createSettings(context);
    const remark = remarks();
    element.append(
      text(
        "Inference has no batch to ask, so training keeps statistics for it: of each batch a " +
          "little. How much is the momentum, and how long it takes to be right follows from it.",
        "lead",
      ),
      saying,
      playback.element,
      charts.element,
      h(
        "p",
        { class: "hint" },
        "The grey band is the truth, small dots are the batches. A ring marks from when a policy " +
          "can be trusted: half of its start’s weight is gone.",
      ),
      h("h3", {}, "What each is made of"),
      text(
        "A moving average begins with mean 0 and variance 1, and forgets them as slowly as it " +
          "forgets everything else. After a jump in the data that slowness helps nobody; nor does " +
          "a perfect memory.",
      ),
      parts.element,
      h("div", { class: "flows" }, readings.element, batch.element),
      h("h3", {}, "What comes"),
      settings.element,
      remark.element,
    );

    /** @type {State} */
    let state;
    const follow = whenChanged(() => time.followed(state, layerOf(state, data)));

    return (/** @type {State} */ next) => {
      const layer = layerOf(next, data);
      const last = layer === undefined ? next.batches : layer.batches.length;
      state = { ...next, at: Math.min(next.at, last) };
      const { at, ...rest } = state;
      const found = follow(JSON.stringify(rest));
      playback.update(at, last, `after ${at} of ${last} batches`);
      charts.update(state, found, layer);
      parts.update(state, found, layer === undefined);
      readings.update(
        time.POLICIES.map((_, which) => {
          const { from, again } = time.trusted(which, state, found);
          const { mean, variance } = found.paths[which][at];
          return [mean, variance, from, layer === undefined ? again : Number.NaN];
        }),
      );
      batch.element.classList.toggle("is-waiting", at === 0);
      const { count, mean, variance } = found.batches[at - 1] ?? { count: 0, mean: 0, variance: 0 };
      batch.update([[count, mean, variance]]);
      say(saying, sentence(state, found));
      settings.update(next, layer);
      remark.update(words.remarks(state, layer));
      return model(state, found);
    };
  },
};

/**
 * Say the one thing that the picture is about, in the place where it is.
 * @param {State} state
 * @param {time.Followed} found
 */
function sentence(state, found) {
  const { at, momentum } = state;
  if (at === 0) return "No batch has come yet: every policy reads mean 0 and variance 1.";
  const { start } = time.madeOf(0, state, found);
  const { from } = time.trusted(0, state, found);
  const begun =
    `After ${at} ${at === 1 ? "batch" : "batches"} the average by Keras’s rule is still ` +
    `${percent(start)} the 0 and 1 that it began with: ${shown(momentum)} to the power of ${at}`;
  return at >= from ? `${begun}.` : `${begun}. It needs ${from} batches to lose half of them.`;
}

/** @param {RoomContext} context */
function createCharts(context) {
  const pick = (/** @type {number} */ value) => context.change({ at: Math.round(value) }, "pick");
  const pair = /** @type {const} */ (["mean", "variance"]).map((what) => ({
    what,
    chart: createChart({
      title: what === "mean" ? "Mean" : "Variance",
      height: 250,
      xTitle: "batches",
      pick,
      settle: context.settle,
    }),
  }));
  const truth = h("span", {}, "truth");
  const keys = [
    ...time.POLICIES,
    { line: "truth", name: truth },
    { line: "batch", name: "a batch" },
  ].map(({ line, name }) => h("li", {}, h("span", { class: `key line-${line}` }), name));
  const own = h("li", {}, h("span", { class: "key line-kept" }), "what your model keeps");

  /** @type {time.Followed | undefined} */
  let drawn;
  return {
    element: h(
      "div",
      {},
      h("ul", { class: "keys" }, ...keys, own),
      h("div", { class: "charts" }, ...pair.map(({ chart }) => chart.element)),
    ),
    /**
     * @param {State} state
     * @param {time.Followed} found
     * @param {import("./own.js").OwnLayer} [layer]
     */
    update(state, found, layer) {
      own.hidden = layer === undefined;
      say(truth, layer === undefined ? "truth" : "all batches together");
      if (found !== drawn) {
        drawn = found;
        for (const { what, chart } of pair) chart.draw(drawing(what, state, found, layer));
      }
      for (const { chart } of pair) chart.move(state.at);
    },
  };
}

/**
 * @param {"mean" | "variance"} what
 * @param {State} state
 * @param {time.Followed} found
 * @param {import("./own.js").OwnLayer} [layer]
 * @returns {import("./chart.js").Drawing}
 */
function drawing(what, state, found, layer) {
  const { batches, paths, truth, jump } = found;
  const count = batches.length;
  const policies = time.POLICIES.map(({ line }, which) => ({
    name: line,
    points: paths[which].map(
      (reading, at) => /** @type {[number, number]} */ ([at, reading[what]]),
    ),
  }));
  // A step at the jump, not a slope.
  const steps = truth.flatMap(
    (each, at) =>
      /** @type {[number, number][]} */ ([
        [at, each[what]],
        [at + 1, each[what]],
      ]),
  );
  const kept = layer?.[what][state.channel];
  const values = [...paths.flat(), ...truth].map((each) => each[what]);
  // Single batches scatter far; the lines are what is to be seen.
  const dots = batches.map((each) => each[what]).toSorted((a, b) => a - b);
  const most = dots.slice(Math.floor(0.03 * count), Math.ceil(0.97 * count));
  const { low, high } = rangeOf([...values, ...most, ...(kept === undefined ? [] : [kept])]);
  const marks = jump > 0 && jump < count ? [{ at: jump, words: "jump" }] : [];
  return {
    x: linear(0, count),
    y: linear(what === "variance" ? Math.min(low, 0) : low, high),
    lines: [
      { name: "truth", points: steps, steady: true },
      ...(kept === undefined
        ? []
        : [
            {
              name: "kept",
              steady: true,
              points: /** @type {[number, number][]} */ ([
                [0, kept],
                [count, kept],
              ]),
            },
          ]),
      {
        name: "batch",
        dots: true,
        points: batches.flatMap((each, at) =>
          each[what] > high || each[what] < low
            ? []
            : [/** @type {[number, number]} */ ([at + 1, each[what]])],
        ),
      },
      ...policies.toReversed(),
    ],
    marks,
    rings: time.POLICIES.flatMap(({ line }, which) => {
      const { from } = time.trusted(which, state, found);
      return from <= count
        ? [{ line, point: /** @type {[number, number]} */ ([from, paths[which][from][what]]) }]
        : [];
    }),
    about: time.POLICIES.map(
      ({ name }, which) => `${name} ends at ${shown(paths[which][count][what], 4)}`,
    ).join(", "),
  };
}
