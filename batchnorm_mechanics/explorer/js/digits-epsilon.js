/** The second question of room 5: an epsilon that a type cannot hold. */

import { createBits } from "./bits.js";
import * as digits from "./digits-model.js";
import * as words from "./digits-words.js";
import { h, whenChanged } from "./dom.js";
import { createGrid } from "./grid.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {digits.State} State */

const { TYPES } = digits;

/** @param {RoomContext} context */
export function createEpsilon(context) {
  const single = (/** @type {"variance" | "small"} */ name, /** @type {string} */ title) =>
    createGrid(
      {
        name,
        title,
        rows: [""],
        columns: [""],
        quiet: true,
        refuse: digits.refuse.notNegative,
        edit: (_, __, value, gesture) => context.change({ [name]: value }, gesture),
      },
      context,
    );
  const [variance, small] = [single("variance", "Variance σ²"), single("small", "ε")];
  const held = createGrid(
    {
      name: "held",
      title: "What each type makes of them",
      rows: TYPES,
      columns: ["σ²", "ε", "σ² + ε", "1 / √(σ² + ε)"],
      coloured: false,
    },
    context,
  );
  const bits = createBits("Variance and ε in float16");
  const said = h("ul", { class: "said" });
  /** @type {State} */
  let state;
  const redraw = whenChanged(() => {
    said.replaceChildren(...words.epsilonSentence(state).map((line) => h("li", {}, line)));
    bits.update(words.epsilonBits(state));
  });
  return {
    element: h(
      "div",
      {},
      h("div", { class: "inputs" }, variance.element, small.element, held.element),
      said,
      bits.element,
    ),
    /** @param {State} next */
    update(next) {
      state = next;
      variance.update([[state.variance]]);
      small.update([[state.small]]);
      held.update(
        TYPES.map((type) => {
          const found = digits.aboutEpsilon(state, type);
          return [found.variance, found.epsilon, found.sum, found.inverse];
        }),
      );
      redraw(`${state.variance} ${state.small}`);
    },
  };
}
