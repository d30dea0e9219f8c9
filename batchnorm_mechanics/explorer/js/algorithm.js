/**
 * Alg. 1 and Alg. 2, l. 11, operation by operation in the order of `batchnorm_mechanics.core`.
 *
 * Statistics keep the reduced axes with size 1. Where `core` sums along several axes at once, or
 * with vector instructions, the order of a sum differs, and with it the last digit.
 */

import { ROUND, wide } from "./precision.js";
import { align, combine, map, sum } from "./tensor.js";

/** @typedef {import("./precision.js").Round} Round */
/** @typedef {import("./precision.js").Dtype} Dtype */
/** @typedef {import("./tensor.js").Tensor} Tensor */

/**
 * What `forward` knows, and `gradients` needs.
 * @typedef {object} Cache
 * @property {Tensor} mean
 * @property {Tensor} variance biased
 * @property {number} count the samples behind each statistic
 * @property {Tensor} deviation x - mean
 * @property {Tensor} inverseStd 1 / sqrt(variance + epsilon)
 * @property {Tensor} xHat
 * @property {Tensor} gamma
 * @property {Tensor} y
 * @property {readonly number[]} axes reduced over
 * @property {Round} round of the statistics' type
 */

/**
 * @typedef {object} Options
 * @property {readonly number[]} axes reduced over, none negative
 * @property {number} epsilon
 * @property {Dtype} [dtype] of x and y; float32 unless given
 */

/**
 * @typedef {object} Parameters
 * @property {readonly number[]} gamma in the order of the kept axes
 * @property {readonly number[]} beta
 */

/**
 * Return how many elements stand behind each statistic.
 * @param {readonly number[]} shape
 * @param {readonly number[]} axes
 */
export function countOf(shape, axes) {
  return axes.reduce((product, axis) => product * shape[axis], 1);
}

/**
 * Return the average along axes, one axis after another.
 * @param {Tensor} value
 * @param {readonly number[]} axes
 * @param {Round} round
 */
export function average(value, axes, round) {
  let found = value;
  for (const axis of axes) {
    const size = found.shape[axis];
    found = map(sum(found, [axis], round), (total) => round(total / size));
  }
  return found;
}

/**
 * Take the mean away before it is rounded: first its rounded value, then what is left of it.
 * @param {Tensor} x
 * @param {readonly number[]} axes
 * @param {Round} round
 */
export function center(x, axes, round) {
  const shift = average(x, axes, round);
  const shifted = combine(x, shift, (a, b) => round(a - b));
  const rest = average(shifted, axes, round);
  return {
    deviation: combine(shifted, rest, (a, b) => round(a - b)),
    mean: combine(shift, rest, (a, b) => round(a + b)),
  };
}

/**
 * @param {Tensor} deviation
 * @param {readonly number[]} axes
 * @param {Round} round
 */
export function biasedVariance(deviation, axes, round) {
  return average(
    map(deviation, (value) => round(value * value)),
    axes,
    round,
  );
}

/**
 * Return 1 / sqrt(variance + epsilon), each of the three operations rounded.
 * @param {Tensor} variance
 * @param {number} epsilon
 * @param {Round} round
 */
export function inverseStd(variance, epsilon, round) {
  const small = round(epsilon);
  return map(variance, (value) => round(1 / round(Math.sqrt(round(value + small)))));
}

/**
 * Return deviation * (inverseStd * gamma) + beta, as `core` orders it: one factor for each channel.
 * @param {Tensor} deviation
 * @param {Tensor} inverse
 * @param {Tensor} gamma
 * @param {Tensor} beta
 * @param {Round} round
 */
function affine(deviation, inverse, gamma, beta, round) {
  const scale = combine(inverse, gamma, (a, b) => round(a * b));
  const scaled = combine(deviation, scale, (a, b) => round(a * b));
  return combine(scaled, beta, (a, b) => round(a + b));
}

/**
 * Normalize a batch by its own statistics, as in training.
 * @param {Tensor} input
 * @param {Parameters} parameters
 * @param {Options} options
 * @returns {Cache}
 */
export function forward(input, parameters, { axes, epsilon, dtype = "float32" }) {
  const round = ROUND[wide(dtype)];
  const x = map(input, ROUND[dtype]);
  const aligned = (/** @type {readonly number[]} */ values) =>
    align(values.map(round), x.shape, axes);
  const [gamma, beta] = [aligned(parameters.gamma), aligned(parameters.beta)];
  const { deviation, mean } = center(x, axes, round);
  const variance = biasedVariance(deviation, axes, round);
  const inverse = inverseStd(variance, epsilon, round);
  return {
    mean,
    variance,
    count: countOf(x.shape, axes),
    deviation,
    inverseStd: inverse,
    xHat: combine(deviation, inverse, (a, b) => round(a * b)),
    gamma,
    y: map(affine(deviation, inverse, gamma, beta, round), ROUND[dtype]),
    axes,
    round,
  };
}

/**
 * Normalize by given statistics, as in inference.
 * @param {Tensor} input
 * @param {Parameters & {mean: readonly number[], variance: readonly number[]}} parameters
 * @param {Options} options
 */
export function infer(input, parameters, { axes, epsilon, dtype = "float32" }) {
  const round = ROUND[wide(dtype)];
  const x = map(input, ROUND[dtype]);
  const aligned = (/** @type {readonly number[]} */ values) =>
    align(values.map(round), x.shape, axes);
  const inverse = inverseStd(aligned(parameters.variance), epsilon, round);
  const deviation = combine(x, aligned(parameters.mean), (a, b) => round(a - b));
  const gamma = aligned(parameters.gamma);
  const y = affine(deviation, inverse, gamma, aligned(parameters.beta), round);
  return {
    deviation,
    inverseStd: inverse,
    xHat: combine(deviation, inverse, (a, b) => round(a * b)),
    y: map(y, ROUND[dtype]),
  };
}

/**
 * Reduce one axis after another: the variance is the mean of variances plus the variance of means.
 * @param {Tensor} input
 * @param {readonly number[]} axes in the order in which they are taken
 * @param {Round} [round]
 */
export function momentsOneAxisAtATime(input, axes, round = Math.fround) {
  let mean = map(input, round);
  let variance = map(mean, () => 0);
  return axes.map((axis) => {
    const between = center(mean, [axis], round);
    const varianceOfMeans = biasedVariance(between.deviation, [axis], round);
    const meanOfVariances = average(variance, [axis], round);
    mean = between.mean;
    variance = combine(meanOfVariances, varianceOfMeans, (a, b) => round(a + b));
    return { axis, mean, variance, meanOfVariances, varianceOfMeans };
  });
}

/**
 * Return variance * count / (count - 1), NaN for fewer than two samples.
 * @param {number} variance biased
 * @param {number} count
 * @param {Round} [round]
 */
export function unbiasedVariance(variance, count, round = Math.fround) {
  return count > 1 ? round(round(variance * count) / round(count - 1)) : Number.NaN;
}

/** @typedef {{mean: number, variance: number, count: number}} Moments of one channel */

/**
 * Return the moments of two groups of samples taken together, in float64 as the policies do.
 * @param {Moments} a
 * @param {Moments} b
 * @returns {Moments}
 */
export function mergeMoments(a, b) {
  const count = a.count + b.count;
  const share = count === 0 ? 0 : b.count / count;
  const delta = b.mean - a.mean;
  const within = (1 - share) * a.variance + share * b.variance;
  return {
    mean: a.mean + delta * share,
    variance: within + delta * delta * share * (1 - share),
    count,
  };
}
