/** Room 6: a real network, trained with and without batch norm, broken, and repaired. */

import { createChart, fromZero, linear } from "./chart.js";
import { h, say } from "./dom.js";
import { createGrid } from "./grid.js";
import { createHeat, createTarget, targetHint } from "./layer-pictures.js";
import { createBreak } from "./network-break.js";
import * as network from "./network-model.js";
import { createOwn } from "./network-own.js";
import { createPlayback } from "./playback.js";
import { text } from "./room.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {network.State} State */
/** @typedef {network.Run} Run */

/** @type {import("./room.js").Room} */
export const roomNetwork = {
  id: "network",
  name: "Network",
  title: "A real network",
  fields: network.fields,
  python: network.code,

  mount(element, context) {
    const run = network.runOf(context.data);
    element.append(
      text(
        "The network that the project began with: three hidden layers of 100 units, tanh, the " +
          "digits of MNIST. Nothing here is made up: what you see is a run of ours, by Keras, and " +
          "what our doctor said of it.",
        "lead",
      ),
      createOwn(context),
    );
    if (run === undefined) {
      element.append(
        text("The run did not come with this page: `bnm explore` writes one with it."),
      );
      return () => ({ explain: () => undefined, from: () => [] });
    }
    const training = createTraining(run, context);
    const failures = createBreak(run, context);
    element.append(training.element, failures.element);
    return (/** @type {State} */ next) => {
      const state = network.within(next, run);
      training.update(state);
      failures.update(state);
      return network.model(state, run);
    };
  },
};

/**
 * @param {Run} run
 * @param {RoomContext} context
 */
function createTraining(run, context) {
  const { steps, training, bins } = run;
  const last = steps.length - 1;
  const playback = createPlayback({
    name: "look",
    change: (at, gesture) => context.change({ at }, gesture),
    settle: context.settle,
  });
  const saying = h("p", { class: "saying" });
  const chart = createChart({
    title: "Test images classified, %",
    height: 230,
    xTitle: "training steps",
    pick: (value) => {
      const at = steps.reduce(
        (best, step, index) =>
          Math.abs(Math.log1p(step) - Math.log1p(value)) <
          Math.abs(Math.log1p(steps[best]) - Math.log1p(value))
            ? index
            : best,
        0,
      );
      context.change({ at }, "pick");
    },
    settle: context.settle,
  });
  const lines = /** @type {const} */ ([
    {
      id: "by-batch",
      name: "with batch norm, by the batch",
      points: training.with.map((seen) => seen.training ?? 0),
    },
    {
      id: "keras",
      name: "with batch norm, in inference",
      points: training.with.map((seen) => seen.inference),
    },
    { id: "stored", name: "without", points: training.without.map((seen) => seen.inference) },
  ]);
  chart.draw({
    x: fromZero(steps[last]),
    y: linear(0, 100),
    lines: lines.map(({ id, points }) => ({
      name: id,
      steady: true,
      points: points.map((value, at) => /** @type {[number, number]} */ ([steps[at], value])),
    })),
    about: lines
      .map(({ name, points }) => `${name}: ${network.percent(points[last])} in the end`)
      .join(", "),
  });
  const now = createGrid(
    {
      name: "now",
      title: "Classified, %",
      rows: [""],
      columns: ["by the batch", "in inference", "without"],
      coloured: false,
      origin:
        `Computed by Keras ${run.keras} in a run of ours, which is stored with this page; ` +
        "by the batch: with batch norm by bnm doctor.",
    },
    context,
  );
  const layers = training.with[0].layers.map((_, layer) => {
    const own = createHeat("with batch norm", bins);
    const other = createHeat("without", bins);
    const target = createTarget("moving statistics");
    const columns = (/** @type {readonly network.Seen[]} */ seen) =>
      seen.map(({ layers: looks }) => looks[layer].density);
    return {
      own,
      other,
      target,
      densities: [columns(training.with), columns(training.without)],
      element: h(
        "section",
        { class: "layer-row", "aria-label": `Layer ${layer + 1} in training` },
        h("h4", {}, `Layer ${layer + 1}`),
        own.element,
        other.element,
        target.element,
      ),
    };
  });
  return {
    element: h(
      "div",
      {},
      h("h3", {}, "Trained with batch norm, and without"),
      saying,
      playback.element,
      h(
        "ul",
        { class: "keys" },
        ...lines.map(({ id, name }) => h("li", {}, h("span", { class: `key line-${id}` }), name)),
      ),
      h("div", { class: "charts" }, chart.element, h("div", { class: "wrapping" }, now.element)),
      text(
        "What enters tanh in inference, step by step from left to right, dark where most values " +
          "are. Without batch norm those of the first layer drift out to where tanh is flat; with " +
          "it they stay. These digits are so easy that it costs no accuracy here. On the right: " +
          "how far the moving statistics are from those of the batches, which our doctor measured.",
        "text spaced",
      ),
      ...layers.map((layer) => layer.element),
      h("p", { class: "hint" }, targetHint()),
    ),
    /** @param {State} state */
    update(state) {
      const { at } = state;
      playback.update(at, last, `step ${steps[at]} of ${steps[last]}`);
      say(saying, network.sentence(state, run));
      chart.move(steps[at]);
      const own = training.with[at];
      now.update([[own.training ?? Number.NaN, own.inference, training.without[at].inference]]);
      layers.forEach(({ own: heat, other, target, densities }, layer) => {
        heat.update(densities[0], at);
        other.update(densities[1], at);
        target.update(own.layers[layer]);
      });
    },
  };
}
