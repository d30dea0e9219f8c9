/** Room 3: the six gradients, cell by cell, and the two sums that must vanish. */

import { createBalance } from "./balance.js";
import { MOST, refuseEpsilon, resized } from "./batch-model.js";
import { h } from "./dom.js";
import { model } from "./gradients-cells.js";
import * as backward from "./gradients-model.js";
import { createGrid } from "./grid.js";
import { builtByShape, chooser, named, remarks, stepper, text } from "./room.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {backward.State} State */

/** @type {import("./room.js").Room} */
export const roomGradients = {
  id: "gradients",
  name: "Gradients",
  title: "Back through it",
  fields: backward.fields,
  mend: backward.mend,
  python: backward.code,

  mount(element, context) {
    const body = h("div");
    const lead = text(
      "In training a sample reaches the outputs in three ways: straight, through the mean, and " +
        "through the variance that it shares with the others. Its gradient comes back in the same " +
        "three, and the shared ones undo what the straight one would waste on moving and " +
        "stretching the whole channel.",
      "lead",
    );
    element.append(lead, body);
    const workshopFor = builtByShape(context, body, (state) =>
      createWorkshop(body, state, context),
    );
    return (/** @type {State} */ state) => {
      const workshop = workshopFor(state);
      const values = backward.computed(state);
      workshop.update(state, values);
      return model(state, values);
    };
  },
};

const FORWARD = /** @type {const} */ ([
  ["mean", "Mean μ", true],
  ["variance", "Variance σ²", true],
  ["xHat", "Normalized x̂", false],
]);
const SIX = /** @type {const} */ ([
  ["dXHat", "1  dx̂", "of the normalized input", false],
  ["dVariance", "2  dσ²", "of the variance", true],
  ["dMean", "3  dμ", "of the mean", true],
  ["dX", "4  dx", "of the input", false],
  ["dGamma", "5  dγ", "of the scale", true],
  ["dBeta", "6  dβ", "of the shift", true],
]);

/**
 * @param {HTMLElement} body
 * @param {State} begun
 * @param {RoomContext} context
 */
function createWorkshop(body, begun, context) {
  let state = begun;
  const [rows, columns] = [named("sample", state.x.length), named("channel", state.x[0].length)];
  const line = { rows: [""], columns, quiet: true };

  /** @type {(field: "x" | "dy") => import("./grid.js").GridSpec["edit"]} */
  const editing = (field) => (row, column, value, gesture) =>
    context.change(
      { [field]: state[field].with(row, state[field][row].with(column, value)) },
      gesture,
    );
  const inputs = {
    x: createGrid({ name: "x", title: "Input x", rows, columns, edit: editing("x") }, context),
    gamma: createGrid(
      {
        name: "gamma",
        title: "Scale γ",
        ...line,
        edit: (_, column, value, gesture) =>
          context.change({ gamma: state.gamma.with(column, value) }, gesture),
      },
      context,
    ),
    epsilon: createGrid(
      {
        name: "epsilon",
        title: "ε",
        ...line,
        columns: [""],
        refuse: refuseEpsilon,
        edit: (_row, _column, epsilon, gesture) => context.change({ epsilon }, gesture),
      },
      context,
    ),
    dy: createGrid(
      {
        name: "dy",
        title: "dy",
        hint: "gradient of the loss by the output",
        rows,
        columns,
        edit: editing("dy"),
      },
      context,
    ),
  };
  const grid = (
    /** @type {string} */ name,
    /** @type {string} */ title,
    /** @type {string} */ hint,
    /** @type {boolean} */ one,
  ) => createGrid({ name, title, hint, rows: one ? [""] : rows, columns, quiet: true }, context);
  const forward = FORWARD.map(([name, title, one]) => ({ name, grid: grid(name, title, "", one) }));
  const six = SIX.map(([name, title, hint, one]) => ({ name, grid: grid(name, title, hint, one) }));
  const elements = (/** @type {readonly {grid: import("./grid.js").Grid}[]} */ of) =>
    of.map((each) => each.grid.element);

  const resize = (/** @type {"samples" | "channels"} */ what) => (/** @type {number} */ by) =>
    context.change({ x: resized(state.x, { [what]: by }) });
  const remark = remarks();
  const ways = /** @type {const} */ ([
    ["throughVariance", "through the variance"],
    ["throughMean", "through the mean"],
  ]).map(([field, name]) => {
    const input = h("input", {
      type: "checkbox",
      "data-key": field,
      onchange: () => context.change({ [field]: input.checked }),
    });
    return { field, input, label: h("label", {}, input, name) };
  });
  const choose = chooser("Channel", named("", columns.length), (channel) =>
    context.change({ channel }),
  );
  const sums = { plain: createBalance("Σ dx"), byXHat: createBalance("Σ dx · x̂") };

  body.replaceChildren(
    h("h3", {}, "What comes in"),
    text("Type or drag the gradient that arrives at each output, or the batch itself."),
    h(
      "div",
      { class: "inputs" },
      h("div", { class: "stack" }, inputs.dy.element),
      h("div", { class: "stack" }, inputs.x.element, inputs.gamma.element),
      h(
        "div",
        { class: "stack" },
        stepper("sample", rows.length, MOST.rows, resize("samples")),
        stepper("channel", columns.length, MOST.columns, resize("channels")),
        inputs.epsilon.element,
        remark.element,
      ),
    ),
    h("h3", {}, "The two sums that must vanish"),
    text(
      "Moving a whole channel changes no output, so its gradients must add up to 0. Stretching " +
        "it changes none either, but for ε: weighted by x̂ they add up to 0 as well. Switch a way " +
        "off and see which sum breaks.",
    ),
    h(
      "div",
      { class: "switches" },
      h("fieldset", {}, h("legend", {}, "Gradient"), ...ways.map((way) => way.label)),
      columns.length > 1 ? choose.element : "",
    ),
    h("div", { class: "fans" }, sums.plain.element, sums.byXHat.element),
    h("h3", {}, "The six gradients"),
    text(
      "In the paper’s order (section 3). Each cell opens into its terms below: look at dx, where " +
        "the three ways meet.",
    ),
    h(
      "div",
      { class: "flows" },
      h(
        "section",
        { class: "flow", "aria-label": "Forward" },
        h("h4", { class: "mode" }, "Forward"),
        ...elements(forward),
      ),
      h(
        "section",
        { class: "flow", "aria-label": "Backward, 1 to 3" },
        h("h4", { class: "mode" }, "To the statistics"),
        ...elements(six.slice(0, 3)),
      ),
      h(
        "section",
        { class: "flow", "aria-label": "Backward, 4 to 6" },
        h("h4", { class: "mode" }, "To input and parameters"),
        ...elements(six.slice(3)),
      ),
    ),
  );

  return {
    /**
     * @param {State} next
     * @param {backward.Computed} values
     */
    update(next, values) {
      state = next;
      inputs.x.update(state.x);
      inputs.dy.update(state.dy);
      inputs.gamma.update([state.gamma]);
      inputs.epsilon.update([[state.epsilon]]);
      for (const { name, grid: own } of forward) own.update(values[name]);
      for (const { name, grid: own } of six) own.update(values[name]);
      for (const { field, input } of ways) input.checked = state[field];
      choose.update(state.channel);
      const { plain, byXHat } = backward.balances(state, values);
      sums.plain.update(
        plain,
        "Vanishes, but for rounding: nothing is spent on moving the channel.",
        "Does not vanish: each step would move the whole channel, which changes no output.",
      );
      sums.byXHat.update(
        byXHat,
        "Vanishes, but for the share that ε has of σ² + ε.",
        "Does not vanish: each step would stretch the channel, which changes no output.",
      );
      remark.update(backward.remarks(state, values));
    },
  };
}
