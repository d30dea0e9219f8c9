/** What room 5 says of each of its numbers: how it was computed, and from which others. */

import { aboutEpsilon, FORMULAS, TYPES } from "./digits-model.js";
import { exact, shown, term } from "./numbers.js";
import { FORMAT, lastPlace } from "./precision.js";

/** @typedef {import("./digits-model.js").State} State */
/** @typedef {import("./digits-model.js").Computed} Computed */
/** @typedef {import("./digits-model.js").Type} Type */

/**
 * What the formula panel says.
 * @param {State} state
 * @param {Record<Type, Computed>} all
 * @returns {import("./formula.js").Model}
 */
export function model(state, all) {
  const found = all[state.dtype];
  const { dtype } = state;
  return {
    from(cell) {
      const [name, row, column] = cell.split(".");
      if (name === "digits" && Number(column) > 0) return [`x.0.${row}`, "mean.0.0", "epsilon.0.0"];
      if (name === "digits") return [`x.0.${row}`, "mean.0.0"];
      if (name === "held") return ["variance.0.0", "small.0.0"];
      return [];
    },
    explain(cell) {
      const [name, row, column] = cell.split(".");
      const [at, which] = [Number(row), Number(column)];
      switch (name) {
        case "digits":
          return aboutDigit(at, which);
        case "errors": {
          const kind = FORMULAS[which]?.name ?? "lost when x was stored";
          const error = all[TYPES[at]].errors[FORMULAS[which]?.id ?? "stored"];
          return {
            title: `${kind}, ${TYPES[at]}: how far the worst y is from float64’s`,
            result: exact(error),
            note:
              which === 3
                ? "The same formula in float64, of x as it was meant and as the type holds it."
                : "Of the same x, as the type holds it.",
          };
        }
        case "held":
          return aboutHeld(TYPES[at], which);
        case "mean":
          return { title: "Mean of the channel", result: exact(state.mean) };
        case "x":
          return {
            title: `How far sample ${which + 1} lies from the mean`,
            result: exact(state.x[which]),
          };
        default:
          return undefined;
      }
    },
  };

  /**
   * @param {number} at sample
   * @param {number} column
   */
  function aboutDigit(at, column) {
    const x = found.stored[at];
    const { right, squares, tfnn, shifted } = found;
    const title = (/** @type {string} */ how) => `y of sample ${at + 1}, ${how}`;
    switch (column) {
      case 0:
        return {
          title: `x of sample ${at + 1}, as ${dtype} holds it`,
          formula: "mean + distance",
          numbers: `${shown(state.mean, 7)} + ${term(state.x[at], 7)}`,
          result: exact(x),
          note: `${dtype}’s numbers are ${shown(2 ** lastPlace(Number.isFinite(x) ? x : 0, FORMAT[dtype]), 3)} apart here.`,
        };
      case 1:
        return {
          title: title("in float64"),
          formula: "(x − μ) / √(σ² + ε)",
          numbers: `${term(right.deviation[at], 9)} / √(${shown(right.variance, 9)} + ${shown(state.epsilon)})`,
          result: exact(right.y[at]),
        };
      case 2:
        return {
          title: title(`by E[x²] − E[x]² in ${dtype}`),
          formula: "(x − E[x]) / √(E[x²] − E[x]² + ε)",
          numbers: `(${shown(x, 9)} − ${term(squares.mean, 9)}) / √(${shown(squares.ofSquares, 9)} − ${shown(squares.squared, 9)} + ${shown(state.epsilon)})`,
          result: exact(squares.y[at]),
        };
      case 3:
        return {
          title: title(`by the formula of tf.nn.batch_normalization in ${dtype}`),
          formula: "x · inv − μ · inv, inv = 1 / √(σ² + ε)",
          numbers: `${term(x, 9)} · ${shown(tfnn.inverse, 9)} − ${term(tfnn.mean, 9)} · ${shown(tfnn.inverse, 9)}`,
          result: exact(tfnn.y[at]),
          note: "This page computed it, with the same formula. Two large products are taken from one another.",
        };
      default:
        return {
          title: title(`by shifted two passes, rounded to ${dtype}`),
          formula: "(x − shift − rest) · inv",
          numbers: `(${shown(x, 9)} − ${term(shifted.shift, 9)} − ${term(shifted.shifted[at] - shifted.deviation[at], 4)}) · ${shown(shifted.inverse, 9)}`,
          result: exact(shifted.y[at]),
          note: "In float32. The shift is the rounded mean; what its rounding left is taken away too.",
        };
    }
  }

  /**
   * @param {Type} type
   * @param {number} column
   */
  function aboutHeld(type, column) {
    const { variance, epsilon, sum, inverse } = aboutEpsilon(state, type);
    const title = [
      `σ² in ${type}`,
      `ε in ${type}`,
      `σ² + ε in ${type}`,
      `1 / √(σ² + ε) in ${type}`,
    ];
    const formula = [undefined, undefined, "σ² + ε", "1 / √(σ² + ε)"][column];
    const numbers = column === 2 ? `${shown(variance)} + ${shown(epsilon)}` : `1 / √${shown(sum)}`;
    return {
      title: title[column],
      ...(formula && { formula, numbers }),
      result: exact([variance, epsilon, sum, inverse][column]),
    };
  }
}
