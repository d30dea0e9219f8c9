/** The question that the project began with, and its answer in two steps. */

import { forward } from "./algorithm.js";
import * as batch from "./batch-model.js";
import { h, unique } from "./dom.js";
import { createGrid } from "./grid.js";
import { exact } from "./numbers.js";
import { named } from "./room.js";
import { KERAS } from "./stored.js";
import { fromRows, toRows } from "./tensor.js";

const { x, gamma, beta, epsilon } = batch.SOURCE;
const parameters = { gamma: x[0].map(() => gamma), beta: x[0].map(() => beta) };
const OURS = toRows(forward(fromRows(x), parameters, { axes: [0], epsilon }).y);

/**
 * Return what is said of a cell of the question.
 * @param {string} cell
 */
export function aboutSource(cell) {
  const [name, row, column] = cell.split(".");
  const place = `sample ${Number(row) + 1}, channel ${Number(column) + 1}`;
  const pick = (/** @type {readonly (readonly number[])[]} */ rows) =>
    rows[Number(row)][Number(column)];
  const by = `Keras ${KERAS.keras} computed it; this page only shows it.`;
  switch (name) {
    case "source_x":
      return { title: `x, ${place}`, result: exact(pick(x)) };
    case "source_ours":
      return {
        title: `y by Algorithm 1, ${place}`,
        result: exact(pick(OURS)),
        note: "Computed on this page, step by step below.",
      };
    case "source_keras":
      return {
        title: `y of layer(x), ${place}`,
        formula: "γ · (x − 0) / √(1 + ε) + β",
        numbers: `${gamma} · ${pick(x)} / √(1 + ${epsilon}) + ${beta}`,
        result: exact(pick(KERAS.called)),
        note: by,
      };
    case "source_training":
      return {
        title: `y of layer(x, training=True), ${place}`,
        result: exact(pick(KERAS.training)),
        note: by,
      };
    default:
      return undefined;
  }
}

/**
 * The source's question, with its answer in two steps.
 * @param {import("./room.js").RoomContext} context
 */
export function createQuestion(context) {
  const title = unique("question");
  const [rows, columns] = [named("sample", x.length), named("channel", x[0].length)];
  const grid = (/** @type {string} */ name, /** @type {string} */ title, origin = "") =>
    createGrid({ name, title, rows, columns, quiet: true, origin }, context);
  const shownGrids = {
    x: grid("source_x", "x"),
    ours: grid("source_ours", "Algorithm 1", "computed on this page"),
    keras: grid("source_keras", "layer(x)", `from Keras ${KERAS.keras}`),
  };
  const training = grid("source_training", "layer(x, training=True)", `from Keras ${KERAS.keras}`);
  shownGrids.x.update(x);
  shownGrids.ours.update(OURS);
  shownGrids.keras.update(KERAS.called);
  training.update(KERAS.training);

  const ask = (/** @type {number} */ answer, /** @type {string} */ text) =>
    h(
      "button",
      {
        type: "button",
        class: "primary",
        onclick: () => {
          context.change({ answer });
          replies[answer - 1].focus();
        },
      },
      text,
    );
  const buttons = [ask(1, "What did Keras normalize with?"), ask(2, "And with training=True?")];
  const first = h(
    "div",
    { class: "reply", tabindex: "-1" },
    h(
      "p",
      {},
      h("strong", {}, "Not with this batch. "),
      "Called without ",
      h("code", {}, "training=True"),
      " the layer is in inference: it takes its moving mean and variance. A new layer has seen no " +
        "batch, so they are still 0 and 1, and ",
      h("code", {}, "y = γ · x / √(1 + ε) + β"),
      ": x comes back nearly as it went in, scaled and shifted.",
    ),
    buttons[1],
  );
  const second = h(
    "div",
    { class: "reply", tabindex: "-1" },
    training.element,
    h(
      "p",
      {},
      h("strong", {}, "The same numbers as Algorithm 1. "),
      "Training normalizes with the batch that is there; inference with what the layer kept of " +
        "earlier batches. Below, both run side by side on numbers of yours.",
    ),
  );
  const replies = [first, second];
  const element = h(
    "section",
    { class: "card question", "aria-labelledby": title },
    h("h3", { id: title }, "Why is the Keras layer’s output different?"),
    h(
      "p",
      {},
      `Two samples of three channels, γ = ${gamma}, β = ${beta}, ε = ${epsilon}. The paper’s ` +
        "Algorithm 1 and a new Keras layer do not agree:",
    ),
    h("div", { class: "row" }, ...Object.values(shownGrids).map((each) => each.element)),
    buttons[0],
    first,
    second,
  );
  return {
    element,
    /** @param {batch.State} state */
    update({ answer }) {
      buttons[0].hidden = answer > 0;
      buttons[1].hidden = answer > 1;
      first.hidden = answer < 1;
      second.hidden = answer < 2;
    },
  };
}
