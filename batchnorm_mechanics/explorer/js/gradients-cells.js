/** What room 3 says of each of its cells: a gradient opens into its terms. */

import { exact, joined, shown, term } from "./numbers.js";

/** @typedef {import("./formula.js").Explanation} Explanation */
/** @typedef {import("./gradients-model.js").State} State */
/** @typedef {import("./gradients-model.js").Computed} Computed */

/**
 * Cells are `x.r.c`, `dy.r.c`, `gamma.0.c`, `epsilon.0.0`, `mean.0.c`, `variance.0.c`, `xHat.r.c`,
 * and the gradients `dXHat`, `dVariance`, `dMean`, `dX`, `dGamma` and `dBeta`.
 * @param {State} state
 * @param {Computed} values
 * @returns {import("./formula.js").Model}
 */
export function model(state, values) {
  const samples = state.x.map((_, row) => row);
  const read = (/** @type {string} */ cell) => {
    const [name, row, column] = cell.split(".");
    return { name, row: Number(row), column: Number(column) };
  };

  return {
    wiring: `${state.throughMean} ${state.throughVariance}`,
    from(cell) {
      const { name, row, column } = read(cell);
      const all = (/** @type {string} */ of) =>
        samples.map((sample) => `${of}.${sample}.${column}`);
      const own = (/** @type {string} */ of) => `${of}.${row}.${column}`;
      const shared = (/** @type {string} */ of) => `${of}.0.${column}`;
      switch (name) {
        case "mean":
          return all("x");
        case "variance":
          return [...all("x"), shared("mean")];
        case "xHat":
          return [own("x"), shared("mean"), shared("variance"), "epsilon.0.0"];
        case "dXHat":
          return [own("dy"), shared("gamma")];
        case "dVariance":
          return [...all("dXHat"), ...all("x"), shared("mean"), shared("variance"), "epsilon.0.0"];
        case "dMean":
          return [...all("dXHat"), shared("variance"), "epsilon.0.0", shared("dVariance")];
        case "dX":
          return [
            own("dXHat"),
            shared("variance"),
            "epsilon.0.0",
            ...(state.throughVariance ? [shared("dVariance"), own("x"), shared("mean")] : []),
            ...(state.throughMean ? [shared("dMean")] : []),
          ];
        case "dGamma":
          return [...all("dy"), ...all("xHat")];
        case "dBeta":
          return all("dy");
        default:
          return [];
      }
    },
    explain(cell) {
      const { name, row, column } = read(cell);
      return (
        aboutForward(state, values, name, row, column) ??
        aboutGradient(state, values, name, row, column)
      );
    },
  };
}

/**
 * @param {State} state
 * @param {Computed} values
 * @param {string} name
 * @param {number} row
 * @param {number} column
 * @returns {Explanation | undefined}
 */
function aboutForward(state, values, name, row, column) {
  const place = `sample ${row + 1}, channel ${column + 1}`;
  const channel = `channel ${column + 1}`;
  switch (name) {
    case "x":
      return { title: `x, ${place}`, result: exact(state.x[row][column]) };
    case "dy":
      return {
        title: `dy, ${place}`,
        result: exact(state.dy[row][column]),
        note: "How much the loss grows with y. It comes from the layers behind; here you choose it.",
      };
    case "gamma":
      return { title: `Scale γ of ${channel}`, result: exact(state.gamma[column]) };
    case "epsilon":
      return { title: "ε, added to the variance", result: exact(state.epsilon) };
    case "mean":
      return {
        title: `Mean μ of ${channel}`,
        formula: "μ = Σ x / m",
        result: exact(values.mean[0][column]),
      };
    case "variance":
      return {
        title: `Variance σ² of ${channel}`,
        formula: "σ² = Σ (x − μ)² / m",
        result: exact(values.variance[0][column]),
      };
    case "xHat":
      return {
        title: `x̂, ${place}`,
        formula: "x̂ = (x − μ) / √(σ² + ε)",
        numbers: `${term(values.deviation[row][column])} / √(${shown(values.variance[0][column])} + ${shown(state.epsilon)})`,
        result: exact(values.xHat[row][column]),
      };
    default:
      return undefined;
  }
}

/**
 * @param {State} state
 * @param {Computed} values
 * @param {string} name
 * @param {number} row
 * @param {number} column
 * @returns {Explanation | undefined}
 */
function aboutGradient(state, values, name, row, column) {
  const place = `sample ${row + 1}, channel ${column + 1}`;
  const channel = `channel ${column + 1}`;
  const each = (/** @type {(sample: number) => string} */ write) =>
    joined(state.x.map((_, sample) => write(sample)));
  const std = `√(${shown(values.variance[0][column])} + ${shown(state.epsilon)})`;
  const at = (/** @type {readonly (readonly number[])[]} */ rows, sample = row) =>
    rows[sample][column];
  switch (name) {
    case "dXHat":
      return {
        title: `1 of 6: gradient of x̂, ${place}`,
        formula: "dx̂ = dy · γ",
        numbers: `${term(at(state.dy))} · ${term(state.gamma[column])}`,
        result: exact(at(values.dXHat)),
      };
    case "dVariance":
      return {
        title: `2 of 6: gradient of the variance, ${channel}`,
        formula: "dσ² = Σ dx̂ · (x − μ) · (−½) · (σ² + ε)^(−3/2)",
        numbers: `(${each((sample) => `${term(at(values.dXHat, sample))} · ${term(at(values.deviation, sample))}`)}) · (−½) / ${std}³`,
        result: exact(values.dVariance[0][column]),
      };
    case "dMean":
      return {
        title: `3 of 6: gradient of the mean, ${channel}`,
        formula: "dμ = −Σ dx̂ / √(σ² + ε) + dσ² · Σ −2 (x − μ) / m",
        numbers: `−(${each((sample) => term(at(values.dXHat, sample)))}) / ${std} + 0`,
        result: exact(values.dMean[0][column]),
        note: "The second term is 0: the deviations from a mean add up to nothing.",
      };
    case "dX":
      return aboutDX(state, values, row, column);
    case "dGamma":
      return {
        title: `5 of 6: gradient of γ, ${channel}`,
        formula: "dγ = Σ dy · x̂",
        numbers: each(
          (sample) => `${term(at(state.dy, sample))} · ${term(at(values.xHat, sample))}`,
        ),
        result: exact(values.dGamma[0][column]),
      };
    case "dBeta":
      return {
        title: `6 of 6: gradient of β, ${channel}`,
        formula: "dβ = Σ dy",
        numbers: each((sample) => term(at(state.dy, sample))),
        result: exact(values.dBeta[0][column]),
      };
    default:
      return undefined;
  }
}

/**
 * @param {State} state
 * @param {Computed} values
 * @param {number} row
 * @param {number} column
 * @returns {Explanation}
 */
function aboutDX(state, values, row, column) {
  const { direct, variance, mean } = values.ways;
  const terms = [
    { symbols: "dx̂ / √(σ² + ε)", value: direct, on: true },
    { symbols: "dσ² · 2 (x − μ) / m", value: variance, on: state.throughVariance },
    { symbols: "dμ / m", value: mean, on: state.throughMean },
  ].filter((way) => way.on);
  return {
    title: `4 of 6: gradient of x, sample ${row + 1}, channel ${column + 1}`,
    formula: `dx = ${terms.map((way) => way.symbols).join(" + ")}`,
    numbers: terms.map((way) => term(way.value[row][column])).join(" + "),
    result: exact(values.dX[row][column]),
    note:
      terms.length === 3
        ? "Straight, through the variance, and through the mean."
        : "Wrong on purpose: a way is switched off.",
  };
}
