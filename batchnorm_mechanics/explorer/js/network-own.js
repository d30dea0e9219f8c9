/** The user's own model in room 6: what the doctor says of it, and each of its layers. */

import { h } from "./dom.js";
import { findings } from "./findings.js";
import { createSpread, createTarget, targetHint } from "./layer-pictures.js";
import { ownModel } from "./own.js";
import { text } from "./room.js";

/**
 * Return what there is of the user's model, or how it comes here.
 * @param {import("./room.js").RoomContext} context
 */
export function createOwn(context) {
  const own = ownModel(context.data);
  if (own === undefined) {
    return h(
      "p",
      { class: "text" },
      "Your own model is shown here by ",
      h("code", {}, "bnm explore model.keras --data x.npz"),
      ".",
    );
  }
  const bins = own.bins;
  const layers = own.layers.map((layer) => {
    const spread = createSpread("x̂ in inference", bins);
    const target = createTarget("moving statistics");
    spread.update(layer.look.density, own.normal);
    target.update(layer.look);
    return h(
      "section",
      { class: "layer-card", "aria-label": layer.name },
      h("h4", {}, layer.name),
      spread.element,
      target.element,
    );
  });
  return h(
    "div",
    { class: "own" },
    h("h3", {}, `Your model: ${own.name}`),
    text(
      `What its batch norm layers make of ${own.data}. Bars are the normalized values in inference, ` +
        "the line what they are where the statistics fit and the values are spread evenly around them.",
    ),
    h("div", { class: "layer-cards" }, ...layers),
    h("p", { class: "hint" }, targetHint()),
    h(
      "p",
      { class: "origin" },
      "What the layers got: computed by your model; x̂ of it: by bnm trace. The batches’ statistics, " +
        "and what follows from them: measured by bnm doctor. The moving ones: your model’s weights." +
        `${own.left > 0 ? ` ${own.left} more layers are not shown.` : ""}`,
    ),
    h("h4", {}, "What bnm doctor says"),
    findings(own.told),
  );
}
