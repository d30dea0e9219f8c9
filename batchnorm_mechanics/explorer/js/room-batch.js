/** Room 1: one batch in training and in inference, and the question that the project began with. */

import { model } from "./batch-cells.js";
import { createFans } from "./batch-fans.js";
import * as batch from "./batch-model.js";
import { createOwnLayers } from "./batch-own.js";
import { aboutSource, createQuestion } from "./batch-question.js";
import { h } from "./dom.js";
import { createGrid } from "./grid.js";
import { builtByShape, named, remarks, stepper, text } from "./room.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {batch.State} State */
/** @typedef {(row: number, column: number, value: number, gesture: string) => void} Edit */

/** @type {import("./room.js").Room} */
export const roomBatch = {
  id: "batch",
  name: "One batch",
  title: "One batch",
  fields: batch.fields,
  mend: batch.mend,
  python: batch.code,

  mount(element, context) {
    const question = createQuestion(context);
    const own = createOwnLayers(context);
    const body = h("div");
    const lead = text(
      "Batch norm asks of every number how far it lies from the others of its channel in the " +
        "batch. It moves a channel’s mean to 0 and its spread to 1, and lets the network choose " +
        "a scale γ and a shift β.",
      "lead",
    );
    element.append(lead, question.element, own.element, body);
    const workshopFor = builtByShape(context, body, (state) =>
      createWorkshop(body, state, context),
    );
    return (/** @type {State} */ state) => {
      const workshop = workshopFor(state);
      const values = batch.computed(state);
      question.update(state);
      workshop.update(state, values);
      const cells = model(state, values);
      return {
        from: cells.from,
        explain: (cell) => own.explain(cell) ?? aboutSource(cell) ?? cells.explain(cell),
      };
    };
  },
};

const STEPS = /** @type {const} */ ([
  ["mean", "Mean μ", true],
  ["deviation", "Deviation x − μ", false],
  ["variance", "Variance σ²", true],
  ["xHat", "Normalized x̂", false],
  ["y", "Output y", false],
]);

/**
 * What depends on the shape of the batch: grids and fans.
 * @param {HTMLElement} body
 * @param {State} begun
 * @param {RoomContext} context
 */
function createWorkshop(body, begun, context) {
  let state = begun;
  const [rows, columns] = [named("sample", state.x.length), named("channel", state.x[0].length)];

  /** @type {Edit} */
  const editX = (row, column, value, gesture) =>
    context.change({ x: state.x.with(row, state.x[row].with(column, value)) }, gesture);
  /** @type {(field: "gamma" | "beta" | "mean" | "variance") => Edit} */
  const editing = (field) => (_, column, value, gesture) =>
    context.change({ [field]: state[field].with(column, value) }, gesture);
  const line = { rows: [""], columns, quiet: true };
  const inputs = {
    x: createGrid({ name: "x", title: "Input x", rows, columns, edit: editX }, context),
    gamma: createGrid(
      { name: "gamma", title: "Scale γ", ...line, edit: editing("gamma") },
      context,
    ),
    beta: createGrid({ name: "beta", title: "Shift β", ...line, edit: editing("beta") }, context),
    epsilon: createGrid(
      {
        name: "epsilon",
        title: "ε",
        ...line,
        columns: [""],
        refuse: batch.refuseEpsilon,
        edit: (_row, _column, epsilon, gesture) => context.change({ epsilon }, gesture),
      },
      context,
    ),
  };

  const count = createGrid(
    { name: "training-count", title: "Count m", rows: [""], columns, quiet: true },
    context,
  );
  const uncounted = h(
    "div",
    { class: "uncounted" },
    h("p", { class: "caption" }, "No count"),
    h("p", { class: "hint" }, "The batch is not asked."),
  );
  const steps = STEPS.map(([step, title, one]) => {
    const shape = { rows: one ? [""] : rows, columns, quiet: true };
    const training = { name: `training-${step}`, title, ...shape };
    const inference = { ...training, name: `inference-${step}` };
    if (step === "mean" || step === "variance") {
      const refuse = step === "variance" ? batch.refuseVariance : undefined;
      const moving = `Moving ${title.toLowerCase()}`;
      Object.assign(inference, { title: moving, edit: editing(step), refuse });
    }
    return {
      step,
      training: createGrid(training, context),
      inference: createGrid(inference, context),
    };
  });
  const flow = (
    /** @type {"training" | "inference"} */ mode,
    /** @type {string} */ title,
    /** @type {HTMLElement} */ first,
  ) =>
    h(
      "section",
      { class: "flow", "aria-label": title },
      h("h4", { class: "mode" }, title),
      first,
      ...steps.map((each) => each[mode].element),
    );

  const resize = (/** @type {"samples" | "channels"} */ what) => (/** @type {number} */ by) =>
    context.change({ x: batch.resized(state.x, { [what]: by }) });
  const remark = remarks();
  const fans = createFans(
    state,
    (sample, value, gesture) => editX(sample, state.channel, value, gesture),
    context,
  );

  body.replaceChildren(
    h("h3", {}, "Change the batch"),
    text("A row is a sample, a column a channel. Type into a blue number, or drag it sideways."),
    h(
      "div",
      { class: "inputs" },
      h("div", { class: "stack" }, inputs.x.element, inputs.gamma.element, inputs.beta.element),
      h(
        "div",
        { class: "stack" },
        stepper("sample", rows.length, batch.MOST.rows, resize("samples")),
        stepper("channel", columns.length, batch.MOST.columns, resize("channels")),
        inputs.epsilon.element,
        remark.element,
      ),
    ),
    h("h3", {}, "Move one sample, and look at the others"),
    text(
      "Drag a ring on the upper line. In training the other outputs move too: they share a mean " +
        "and a spread with it. In inference they stand still.",
    ),
    ...fans.elements,
    h("h3", {}, "Every step"),
    text(
      "Training takes mean and variance from the batch. Inference takes what it has kept: change " +
        "the moving mean and variance, and only inference follows. Blue cells are above 0, " +
        "orange ones below.",
    ),
    h(
      "div",
      { class: "flows" },
      flow("training", "Training", count.element),
      flow("inference", "Inference", uncounted),
    ),
  );

  return {
    /**
     * @param {State} next
     * @param {batch.Computed} values
     */
    update(next, values) {
      state = next;
      inputs.x.update(state.x);
      inputs.gamma.update([state.gamma]);
      inputs.beta.update([state.beta]);
      inputs.epsilon.update([[state.epsilon]]);
      count.update(values.training.count);
      for (const { step, training, inference } of steps) {
        training.update(values.training[step]);
        inference.update(values.inference[step]);
      }
      remark.update(batch.remarks(state));
      fans.update(state, values);
    },
  };
}
