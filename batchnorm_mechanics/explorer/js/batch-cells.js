/** What room 1 says of each of its cells: how it was computed, and from which others. */

import { exact, joined, shown, term } from "./numbers.js";

/** @typedef {import("./formula.js").Explanation} Explanation */
/** @typedef {import("./batch-model.js").State} State */
/** @typedef {import("./batch-model.js").Computed} Computed */
/** @typedef {"mean" | "deviation" | "variance" | "xHat" | "y"} Step */

const NAMES = {
  mean: "mean μ",
  deviation: "deviation x − μ",
  variance: "variance σ²",
  xHat: "x̂",
  y: "y",
};

/**
 * Return what is known of each cell in a state. Cells are `x.r.c`, `gamma.0.c`, `beta.0.c`,
 * `epsilon.0.0`, and of each mode `training-mean.0.c`, `training-deviation.r.c`, ...
 * @param {State} state
 * @param {Computed} values
 * @returns {import("./formula.js").Model}
 */
export function model(state, values) {
  const samples = state.x.map((_, row) => row);
  /** @param {string} cell */
  const read = (cell) => {
    const [name, row, column] = cell.split(".");
    const [mode, step] = name.split("-");
    return { mode, step, row: Number(row), column: Number(column) };
  };

  /** @type {import("./formula.js").Model["from"]} */
  function from(cell) {
    const { mode, step, row, column } = read(cell);
    const own = (/** @type {string} */ name, at = row) => `${mode}-${name}.${at}.${column}`;
    const given = mode === "inference";
    switch (step) {
      case "mean":
        return given ? [] : [...samples.map((sample) => `x.${sample}.${column}`), own("count", 0)];
      case "deviation":
        return [`x.${row}.${column}`, own("mean", 0)];
      case "variance":
        return given ? [] : [...samples.map((sample) => own("deviation", sample)), own("count", 0)];
      case "xHat":
        return [own("deviation"), own("variance", 0), "epsilon.0.0"];
      case "y":
        return [own("xHat"), `gamma.0.${column}`, `beta.0.${column}`];
      default:
        return [];
    }
  }

  /** @type {import("./formula.js").Model["explain"]} */
  function explain(cell) {
    const { mode, step, row, column } = read(cell);
    const channel = `channel ${column + 1}`;
    if (step === undefined) return given(state, mode, row, column);
    if (mode !== "training" && mode !== "inference") return undefined;
    const own = values[mode];
    const value = (/** @type {Step} */ name) =>
      own[name][name === "mean" || name === "variance" ? 0 : row][column];
    const [mean, variance] = [value("mean"), value("variance")];
    const title = `${NAMES[/** @type {Step} */ (step)]}, sample ${row + 1}, ${channel}, ${mode}`;
    switch (step) {
      case "count":
        return {
          title: `Count m of ${channel}`,
          result: `${samples.length}`,
          note: "How many numbers of the channel the mean and the variance are taken over.",
        };
      case "mean":
        return mode === "inference"
          ? given(state, "moving-mean", row, column)
          : {
              title: `Mean μ of ${channel} in this batch`,
              formula: "μ = Σ x / m",
              numbers: `(${joined(state.x.map((sample) => term(sample[column])))}) / ${samples.length}`,
              result: exact(mean),
            };
      case "variance":
        return mode === "inference"
          ? given(state, "moving-variance", row, column)
          : {
              title: `Variance σ² of ${channel} in this batch`,
              formula: "σ² = Σ (x − μ)² / m",
              numbers: `(${joined(own.deviation.map((sample) => `${term(sample[column])}²`))}) / ${samples.length}`,
              result: exact(variance),
              note: "Divided by m, not by m − 1: this is the biased variance, as in Algorithm 1.",
            };
      case "deviation":
        return {
          title,
          formula: "x − μ",
          numbers: `${shown(state.x[row][column])} − ${term(mean)}`,
          result: exact(value("deviation")),
        };
      case "xHat":
        return {
          title,
          formula: "x̂ = (x − μ) / √(σ² + ε)",
          numbers: `${term(value("deviation"))} / √(${shown(variance)} + ${shown(state.epsilon)})`,
          result: exact(value("xHat")),
        };
      case "y":
        return {
          title,
          formula: "y = γ · x̂ + β",
          numbers: `${shown(state.gamma[column])} · ${term(value("xHat"))} + ${term(state.beta[column])}`,
          result: exact(value("y")),
        };
      default:
        return undefined;
    }
  }
  return { explain, from };
}

/**
 * Return what is said of a number that nothing was computed for.
 * @param {State} state
 * @param {string} name
 * @param {number} row
 * @param {number} column
 * @returns {Explanation | undefined}
 */
function given(state, name, row, column) {
  const channel = `channel ${column + 1}`;
  switch (name) {
    case "x":
      return { title: `x, sample ${row + 1}, ${channel}`, result: exact(state.x[row][column]) };
    case "gamma":
      return { title: `Scale γ of ${channel}, learned`, result: exact(state.gamma[column]) };
    case "beta":
      return { title: `Shift β of ${channel}, learned`, result: exact(state.beta[column]) };
    case "epsilon":
      return {
        title: "ε, added to the variance",
        result: exact(state.epsilon),
        note: "Without it a channel whose samples are all alike would be divided by 0.",
      };
    case "moving-mean":
      return {
        title: `Moving mean of ${channel}`,
        result: exact(state.mean[column]),
        note: "Kept from training; a new layer begins with 0. The batch does not enter.",
      };
    case "moving-variance":
      return {
        title: `Moving variance of ${channel}`,
        result: exact(state.variance[column]),
        note: "Kept from training; a new layer begins with 1. The batch does not enter.",
      };
    default:
      return undefined;
  }
}
