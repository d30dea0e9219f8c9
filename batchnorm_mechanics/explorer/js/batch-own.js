/** Room 1 with the user's own numbers: what a batch norm layer of their model got, and gave. */

import { h } from "./dom.js";
import { createGrid } from "./grid.js";
import { exact } from "./numbers.js";
import { ownModel } from "./own.js";
import { named, text } from "./room.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {import("./own.js").OwnLayer} OwnLayer */

/**
 * Return a choice of the layers of the user's model, and what the chosen one made of it; nothing
 * where no model was given.
 * @param {RoomContext} context
 */
export function createOwnLayers(context) {
  const own = ownModel(context.data);
  if (own === undefined || own.layers.length === 0)
    return { element: h("div"), explain: () => undefined };
  const body = h("div");
  /** @type {OwnLayer} */
  let layer = own.layers[0];
  const select = h(
    "select",
    {
      "aria-label": "Layer of your model",
      "data-key": "own layer",
      onchange: () => show(own.layers[select.selectedIndex]),
    },
    ...own.layers.map(({ name }) => h("option", {}, name)),
  );
  const put = h(
    "button",
    {
      type: "button",
      class: "primary",
      onclick: () => {
        const { x, gamma, beta, epsilon, mean, variance } = layer;
        const channels = x[0].length;
        const first = (/** @type {readonly number[]} */ values) => values.slice(0, channels);
        context.change({
          x,
          gamma: first(gamma),
          beta: first(beta),
          mean: first(mean),
          variance: first(variance),
          epsilon,
          channel: 0,
        });
      },
    },
    "Put what it got into the grid below",
  );

  /** @param {OwnLayer} next */
  function show(next) {
    layer = next;
    context.rebuild(body, () => {
      const rows = named("place", layer.y.length);
      const grid = createGrid(
        {
          name: "own",
          title: `What ${layer.name} gave in inference`,
          hint: `${layer.y[0].length} of ${layer.all} channels`,
          rows,
          columns: named("channel", layer.y[0].length),
          origin: `Computed by ${layer.by}, in your model, from ${own?.data}.`,
        },
        context,
      );
      grid.update(layer.y);
      body.replaceChildren(grid.element);
    });
  }
  show(layer);
  return {
    element: h(
      "section",
      { class: "card own-card", "aria-label": "Your model" },
      h("h3", {}, `Your model: ${own.name}`),
      text(
        "Some of what a batch norm layer got, to be changed by hand. What it gave is its own; all " +
          "that is below is computed on this page.",
      ),
      h("p", { class: "pick" }, "Layer ", select, " ", put),
      body,
    ),
    /** @param {string} cell */
    explain(cell) {
      const [name, row, column] = cell
        .split(".")
        .map((part, at) => (at === 0 ? part : Number(part)));
      if (name !== "own") return undefined;
      return {
        title: `Output of ${layer.name}, place ${Number(row) + 1}, channel ${column}`,
        result: exact(layer.y[Number(row)][Number(column)]),
        note: `Computed by ${layer.by}, in your model.`,
      };
    },
  };
}
