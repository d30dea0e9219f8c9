/** Break the network of room 6, see what the doctor says, and repair it. */

import { h, say, whenChanged } from "./dom.js";
import { findings } from "./findings.js";
import { createGrid } from "./grid.js";
import { createSpread, createTarget } from "./layer-pictures.js";
import * as network from "./network-model.js";
import { chooser, text } from "./room.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {network.State} State */
/** @typedef {network.Run} Run */

/**
 * @param {Run} run
 * @param {RoomContext} context
 */
export function createBreak(run, context) {
  const { bins, whole } = run;
  const kinds = network.FAILURES.filter(({ name }) =>
    run.failures.some((one) => one.name === name),
  );
  const which = chooser(
    "Break it",
    kinds.map(({ title }) => title),
    (at) => context.change({ failure: kinds[at].name, stage: "broken" }),
  );
  const stage = chooser("Look at it", ["broken", "repaired"], (at) =>
    context.change({ stage: network.STAGES[at] }),
  );
  const story = h("p", { class: "text" });
  const asked = createGrid(
    {
      name: "asked",
      title: "Classified when asked for one image at a time, %",
      rows: [""],
      columns: ["trained", "broken", "repaired"],
      coloured: false,
      origin:
        `Computed by Keras ${run.keras}; the batches’ statistics were measured by bnm doctor, and ` +
        "what it says below is its own output, stored.",
    },
    context,
  );
  const layers = whole.densities.map((density, layer) => {
    const spread = createSpread("what enters tanh", bins);
    const target = createTarget("moving statistics");
    return {
      density,
      spread,
      target,
      element: h(
        "section",
        { class: "layer-card", "aria-label": `Layer ${layer + 1}, broken or repaired` },
        h("h4", {}, `Layer ${layer + 1}`),
        spread.element,
        target.element,
      ),
    };
  });
  const said = h("div");
  const printed = h("div");
  const tell = whenChanged((key) => {
    const [name, at] = key.split(" ");
    const failure = network.failureOf({ failure: name, stage: "broken", at: 0 }, run);
    const repaired = at === "repaired";
    const steps = h("ul", { class: "said" }, ...failure.steps.map((step) => h("li", {}, step)));
    said.replaceChildren(
      h("h4", {}, repaired ? "What bnm repair did" : "What bnm doctor says"),
      ...(repaired
        ? [steps, h("h4", {}, "What bnm doctor says now"), findings(failure.repaired.told)]
        : [findings(failure.broken.told)]),
    );
    printed.replaceChildren(
      h(
        "details",
        {},
        h(
          "summary",
          {},
          repaired ? "As the terminal shows the repair" : "As the terminal shows it",
        ),
        h("pre", { tabindex: 0 }, repaired ? failure.repair : failure.broken.text),
      ),
    );
  });
  return {
    element: h(
      "div",
      {},
      h("h3", {}, "Break it, and have it repaired"),
      text(
        "The trained network, broken in the ways in which it happens to people. Bars are what " +
          "enters tanh now, the line what it was.",
      ),
      h("div", { class: "choosers stacked" }, which.element, stage.element),
      story,
      h("div", { class: "wrapping" }, asked.element),
      h("div", { class: "layer-cards" }, ...layers.map((layer) => layer.element)),
      said,
      printed,
    ),
    /** @param {State} state */
    update(state) {
      const failure = network.failureOf(state, run);
      const { layers: looks } = failure[state.stage];
      which.update(kinds.indexOf(network.about(failure)));
      stage.update(network.STAGES.indexOf(state.stage));
      say(story, network.about(failure).story);
      asked.update([[whole.accuracy, failure.broken.accuracy, failure.repaired.accuracy]]);
      layers.forEach(({ density, spread, target }, layer) => {
        spread.update(looks[layer].density, density);
        target.update(looks[layer]);
      });
      tell(`${failure.name} ${state.stage}`);
    },
  };
}
