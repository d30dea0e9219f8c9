/** The six gradients of sec. 3, in the order and grouping of `batchnorm_mechanics.core`. */

import { combine, map, sum } from "./tensor.js";

/** @typedef {import("./algorithm.js").Cache} Cache */
/** @typedef {import("./tensor.js").Tensor} Tensor */

/**
 * The six, in the paper's order, and the three ways by which the fourth comes together.
 * @typedef {object} Gradients
 * @property {Tensor} dXHat
 * @property {Tensor} dVariance
 * @property {Tensor} dMean
 * @property {Tensor} dX
 * @property {Tensor} dGamma
 * @property {Tensor} dBeta
 * @property {{direct: Tensor, variance: Tensor, mean: Tensor}} ways what of dX comes straight,
 *   through the variance, and through the mean, all in the shape of x
 */

/**
 * Return the six gradients. With a way switched off, that term of dX is left out: a mistake, made
 * on purpose.
 * @param {Tensor} gradient of the loss with respect to y
 * @param {Cache} cache of `forward`
 * @param {{mean?: boolean, variance?: boolean}} [through] which ways are on; both, unless told
 * @returns {Gradients}
 */
export function gradients(gradient, cache, through = {}) {
  const { deviation, inverseStd, gamma, count, axes, round } = cache;
  const times = (/** @type {number} */ a, /** @type {number} */ b) => round(a * b);
  const plus = (/** @type {number} */ a, /** @type {number} */ b) => round(a + b);
  const total = (/** @type {Tensor} */ value) => sum(value, axes, round);

  const dy = map(gradient, round);
  const dXHat = combine(dy, gamma, times);
  const halves = map(total(combine(dXHat, deviation, times)), (value) => round(value * -0.5));
  // A power of three is rounded once, not after each product.
  const cubes = map(inverseStd, (value) => round(value * value * value));
  const dVariance = combine(halves, cubes, times);
  const byMean = map(total(deviation), (value) => round(round(-2 * value) / count));
  const dMean = combine(
    combine(
      map(total(dXHat), (value) => -value),
      inverseStd,
      times,
    ),
    combine(dVariance, byMean, times),
    plus,
  );

  const none = (/** @type {Tensor} */ value) => map(value, () => 0);
  const usedVariance = through.variance === false ? none(dVariance) : dVariance;
  const usedMean = through.mean === false ? none(dMean) : dMean;
  const doubled = combine(
    map(usedVariance, (value) => round(value * 2)),
    deviation,
    times,
  );
  const ofStatistics = map(combine(doubled, usedMean, plus), (value) => round(value / count));
  const direct = combine(dXHat, inverseStd, times);
  return {
    dXHat,
    dVariance,
    dMean,
    dX: combine(direct, ofStatistics, plus),
    dGamma: total(combine(dy, combine(deviation, inverseStd, times), times)),
    dBeta: total(dy),
    ways: {
      direct,
      variance: map(doubled, (value) => round(value / count)),
      mean: combine(
        none(deviation),
        map(usedMean, (value) => round(value / count)),
        plus,
      ),
    },
  };
}
