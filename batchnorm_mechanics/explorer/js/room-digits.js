/** Room 5: the digits that a channel far from zero loses, and the formula that keeps them. */

import { createBits } from "./bits.js";
import { model } from "./digits-cells.js";
import { createEpsilon } from "./digits-epsilon.js";
import * as digits from "./digits-model.js";
import { createMean, createSweeps } from "./digits-sweeps.js";
import * as words from "./digits-words.js";
import { h, say } from "./dom.js";
import { createGrid } from "./grid.js";
import { shown } from "./numbers.js";
import { chooser, named, text } from "./room.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {digits.State} State */

const { TYPES, FORMULAS } = digits;
const COLUMNS = ["x as held", "float64", ...FORMULAS.map(({ name }) => name)];

/** @type {import("./room.js").Room} */
export const roomDigits = {
  id: "digits",
  name: "Digits",
  title: "The digits that are lost",
  fields: digits.fields,
  mend: digits.mend,
  python: words.code,

  mount(element, context) {
    /** @type {State} */
    let state;
    const sweeps = createSweeps(context);
    const mean = createMean(context);
    const errors = createGrid(
      {
        name: "errors",
        title: "How far the worst y is from float64’s",
        rows: TYPES,
        columns: [...FORMULAS.map(({ name }) => name), "lost in x itself"],
        coloured: false,
        written: (value) => shown(value, 3),
      },
      context,
    );
    const closer = createCloser(context);
    const inputs = createInputs(context, () => state);
    const epsilon = createEpsilon(context);
    element.append(
      text(
        "A computer keeps so many digits of a number and no more. Far from zero they are spent on " +
          "how far it is, and what batch norm wants to know is how the samples differ.",
        "lead",
      ),
      mean.element,
      sweeps.element,
      h("div", { class: "wrapping" }, errors.element),
      h("h3", {}, "Bit by bit"),
      text(
        "Two large numbers that are almost alike are taken from one another: the bits in which " +
          "they agree cancel, and what is left are the few behind them. Hatched bits are those " +
          "that the right answer has and the type has no room for.",
      ),
      closer.element,
      inputs.element,
      h("h3", {}, "An epsilon that half precision cannot hold"),
      text(
        "ε keeps a channel without spread from being divided by 0, if it is there at all. Below a " +
          "type’s smallest number it is 0; below the step from one number to the next it is " +
          "rounded away.",
      ),
      epsilon.element,
    );
    return (/** @type {State} */ next) => {
      state = next;
      const of = (/** @type {digits.Type} */ type) => digits.computed(state, type);
      const all = { float32: of("float32"), bfloat16: of("bfloat16"), float16: of("float16") };
      mean.update(state);
      sweeps.update(state);
      errors.update(
        TYPES.map((type) => {
          const { squares, tfnn, shifted, stored } = all[type].errors;
          return [squares, tfnn, shifted, stored];
        }),
      );
      closer.update(state, all[state.dtype]);
      inputs.update(state);
      epsilon.update(state);
      return model(state, all);
    };
  },
};

/**
 * One type digit by digit, and one subtraction bit by bit.
 * @param {RoomContext} context
 */
function createCloser(context) {
  const rows = named("sample", digits.fields.x.initial.length);
  const type = chooser("Type", TYPES, (at) => context.change({ dtype: TYPES[at] }));
  const formula = chooser(
    "Formula",
    FORMULAS.map(({ name }) => name),
    (at) => context.change({ formula: FORMULAS[at].id }),
  );
  const sample = h(
    "select",
    { onchange: () => context.change({ sample: sample.selectedIndex }) },
    ...rows.map((name) => h("option", {}, name)),
  );
  const grid = createGrid(
    { name: "digits", title: "y of each sample", rows, columns: COLUMNS, coloured: false },
    context,
  );
  const bits = createBits("The subtraction");
  const said = h("p", { class: "saying" });
  const remark = h("ul", { class: "remarks wide", "aria-live": "polite" });
  return {
    element: h(
      "div",
      {},
      h(
        "div",
        { class: "choosers" },
        type.element,
        formula.element,
        h("label", { class: "pick" }, "of ", sample),
      ),
      bits.element,
      said,
      remark,
      h("div", { class: "wrapping" }, grid.element),
    ),
    /**
     * @param {State} state
     * @param {digits.Computed} found
     */
    update(state, found) {
      type.update(TYPES.indexOf(state.dtype));
      formula.update(FORMULAS.findIndex(({ id }) => id === state.formula));
      sample.selectedIndex = state.sample;
      const of = words.subtraction(state, found);
      bits.update(words.subtractionBits(of));
      say(said, words.sentence(of));
      const lines = words.remarks(state, found);
      if (lines.join() !== [...remark.children].map((line) => line.textContent).join()) {
        remark.replaceChildren(...lines.map((line) => h("li", {}, line)));
      }
      grid.update(
        found.stored.map((x, at) => [
          x,
          found.right.y[at],
          ...FORMULAS.map(({ id }) => found[id].y[at]),
        ]),
      );
    },
  };
}

/**
 * What the channel is, but for its mean.
 * @param {RoomContext} context
 * @param {() => State} current
 */
function createInputs(context, current) {
  const x = createGrid(
    {
      name: "x",
      title: "How far each sample lies from the mean",
      rows: [""],
      columns: named("sample", digits.fields.x.initial.length),
      quiet: true,
      refuse: digits.refuse.x,
      edit: (_, column, value, gesture) =>
        context.change({ x: current().x.with(column, value) }, gesture),
    },
    context,
  );
  const epsilon = createGrid(
    {
      name: "epsilon",
      title: "ε",
      rows: [""],
      columns: [""],
      quiet: true,
      refuse: digits.refuse.epsilon,
      edit: (_, __, value, gesture) => context.change({ epsilon: value }, gesture),
    },
    context,
  );
  return {
    element: h("div", { class: "inputs" }, x.element, epsilon.element),
    /** @param {State} state */
    update(state) {
      x.update([state.x]);
      epsilon.update([[state.epsilon]]);
    },
  };
}
