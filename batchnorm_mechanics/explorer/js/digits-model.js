/** Room 5 without a page: one channel far from zero, normalized by three formulas in three types. */

import { biasedVariance, center, forward } from "./algorithm.js";
import { choice, number, numbers } from "./fields.js";
import { ROUND } from "./precision.js";
import { tensor } from "./tensor.js";

/** @typedef {import("./precision.js").Round} Round */
/** @typedef {"float32" | "bfloat16" | "float16"} Type */
/** @typedef {"squares" | "tfnn" | "shifted"} Formula */

/**
 * @typedef {object} State
 * @property {number} mean
 * @property {readonly number[]} x how far each sample lies from the mean
 * @property {number} epsilon
 * @property {Type} dtype that is shown digit by digit
 * @property {Formula} formula whose bits are drawn
 * @property {number} sample whose bits are drawn
 * @property {number} variance of the second question, about epsilon
 * @property {number} small the epsilon of that question
 */

export const TYPES = /** @type {const} */ (["float32", "bfloat16", "float16"]);

export const FORMULAS = /** @type {const} */ ([
  { id: "squares", name: "E[x²] − E[x]²" },
  { id: "tfnn", name: "tf.nn’s formula" },
  { id: "shifted", name: "shifted two passes" },
]);

export const MOST_MEAN = 1e6;

const mayBeMean = (/** @type {number} */ value) => value >= 0 && value <= MOST_MEAN;
const mayBeX = (/** @type {number} */ value) => Math.abs(value) <= 1e6;
const notNegative = (/** @type {number} */ value) => value >= 0 && value <= 1e30;

export const fields = {
  mean: number(3000, mayBeMean),
  x: numbers([-1.5, -0.75, -0.25, 0.25, 0.5, 1.75], mayBeX),
  epsilon: number(1e-3, (value) => value > 0 && value <= 1e30),
  dtype: choice(/** @type {Type} */ ("float32"), TYPES),
  formula: choice(/** @type {Formula} */ ("squares"), ["squares", "tfnn", "shifted"]),
  sample: number(0, Number.isInteger),
  variance: number(0, notNegative),
  small: number(1e-8, notNegative),
};

/** Why a number cannot be, for each thing that is set. */
export const refuse = {
  mean: (/** @type {number} */ value) =>
    mayBeMean(value) ? null : "The mean goes from 0 to 1e6 here.",
  x: (/** @type {number} */ value) =>
    mayBeX(value) ? null : "How far a sample lies from the mean must be a number up to 1e6.",
  epsilon: (/** @type {number} */ value) =>
    value > 0 && value <= 1e30
      ? null
      : "ε must be above 0 here. What happens without it is the question further down.",
  notNegative: (/** @type {number} */ value) =>
    notNegative(value) ? null : "It must be 0 or more, and finite.",
};

/**
 * @param {State} state
 * @returns {State}
 */
export function mend(state) {
  const x = state.x.length === fields.x.initial.length ? state.x : fields.x.initial;
  return { ...state, x, sample: Math.min(Math.max(state.sample, 0), x.length - 1) };
}

/**
 * Return the average of numbers: one running sum, each step rounded.
 * @param {readonly number[]} values
 * @param {Round} round
 */
function average(values, round) {
  return round(values.reduce((sum, value) => round(sum + value), 0) / values.length);
}

/**
 * By E[x²] − E[x]², all of it in one type.
 * @param {readonly number[]} x
 * @param {number} epsilon
 * @param {Round} round
 */
export function bySquares(x, epsilon, round) {
  const mean = average(x, round);
  const ofSquares = average(
    x.map((value) => round(value * value)),
    round,
  );
  const squared = round(mean * mean);
  const variance = round(ofSquares - squared);
  const std = round(Math.sqrt(round(variance + round(epsilon))));
  const y = x.map((value) => round(round(value - mean) / std));
  return { mean, ofSquares, squared, variance, std, y };
}

/**
 * By the formula of tf.nn.batch_normalization, all of it in one type, with statistics that are as
 * good as that type holds: float32's, rounded.
 * @param {readonly number[]} x
 * @param {number} epsilon
 * @param {Round} round
 */
export function byTfNn(x, epsilon, round) {
  const statistics = center(tensor([x.length, 1], x), [0], Math.fround);
  const mean = round(statistics.mean.values[0]);
  const variance = round(biasedVariance(statistics.deviation, [0], Math.fround).values[0]);
  const inverse = round(1 / Math.sqrt(round(variance + round(epsilon))));
  const products = x.map((value) => round(value * inverse));
  const offset = round(mean * inverse);
  return {
    mean,
    variance,
    inverse,
    products,
    offset,
    y: products.map((each) => round(each - offset)),
  };
}

/**
 * By the two passes of `core`: in float32, and rounded once at the end.
 * @param {readonly number[]} x
 * @param {number} epsilon
 * @param {Type} dtype
 */
export function byShift(x, epsilon, dtype) {
  const own = { gamma: [1], beta: [0] };
  const found = forward(tensor([x.length, 1], x), own, { axes: [0], epsilon, dtype });
  const shift = average(x, Math.fround);
  return {
    shift,
    shifted: x.map((value) => Math.fround(value - shift)),
    deviation: found.deviation.values,
    mean: found.mean.values[0],
    variance: found.variance.values[0],
    inverse: found.inverseStd.values[0],
    y: found.y.values,
  };
}

/**
 * In float64, where nothing that is shown here is lost.
 * @param {readonly number[]} x
 * @param {number} epsilon
 */
export function inFloat64(x, epsilon) {
  const exact = (/** @type {number} */ value) => value;
  // Taken from the first sample on, which costs no digit.
  const shifted = x.map((value) => value - x[0]);
  const mean = average(shifted, exact);
  const deviation = shifted.map((value) => value - mean);
  const variance = average(
    deviation.map((value) => value * value),
    exact,
  );
  const std = Math.sqrt(variance + epsilon);
  return { mean: x[0] + mean, deviation, variance, std, y: deviation.map((value) => value / std) };
}

/**
 * Return the largest distance of two results; NaN where one is no number.
 * @param {readonly number[]} a
 * @param {readonly number[]} b
 */
function apart(a, b) {
  return a.reduce((most, value, at) => {
    const distance = Math.abs(value - b[at]);
    return Math.max(distance, most);
  }, 0);
}

/**
 * Compute everything in one type.
 * @param {State} state
 * @param {Type} dtype
 * @param {number} [mean]
 */
export function computed({ x, epsilon, mean: own }, dtype, mean = own) {
  const round = ROUND[dtype];
  const stored = x.map((value) => round(mean + value));
  const right = inFloat64(stored, epsilon);
  const squares = bySquares(stored, epsilon, round);
  const tfnn = byTfNn(stored, epsilon, round);
  const shifted = byShift(stored, epsilon, dtype);
  const errors = {
    squares: apart(squares.y, right.y),
    tfnn: apart(tfnn.y, right.y),
    shifted: apart(shifted.y, right.y),
    stored: apart(right.y, inFloat64(x, epsilon).y),
  };
  return { stored, right, squares, tfnn, shifted, errors };
}

/** @typedef {ReturnType<typeof computed>} Computed */

/** Means from 0 to a million: a step of the slider each. */
export const MEANS = Array.from({ length: 121 }, (_, at) =>
  at === 0 ? 0 : Number((10 ** (at / 20)).toPrecision(3)),
);

/** Around each mean some are tried: how bits happen to fall says nothing. */
const AROUND = [1, 1.013, 1.029];

/**
 * Return the errors in a type over the means, the worst of some around each.
 * @param {State} state
 * @param {Type} dtype
 */
export function sweep(state, dtype) {
  return MEANS.filter((_, at) => at % 2 === 0).map((mean) => {
    const tried = AROUND.map((factor) => computed(state, dtype, mean * factor).errors);
    const worst = (/** @type {keyof Computed["errors"]} */ name) =>
      Math.max(...tried.map((errors) => errors[name]));
    return {
      mean,
      squares: worst("squares"),
      tfnn: worst("tfnn"),
      shifted: worst("shifted"),
      stored: worst("stored"),
    };
  });
}

/**
 * Return what becomes of epsilon in a type.
 * @param {State} state
 * @param {Type} dtype
 */
export function aboutEpsilon({ variance, small }, dtype) {
  const round = ROUND[dtype];
  const [held, epsilon] = [round(variance), round(small)];
  const sum = round(held + epsilon);
  return { variance: held, epsilon, sum, inverse: round(1 / round(Math.sqrt(sum))) };
}
