/**
 * The statistics of inference, one channel at a time, as `batchnorm_mechanics.statistics` has them:
 * `init` gives a state, `update` the next one. A state's `mean` and `variance` are what it reads.
 */

import { mergeMoments, unbiasedVariance } from "./algorithm.js";

/** @typedef {import("./algorithm.js").Moments} Moments */

/**
 * @template State
 * @typedef {object} Policy
 * @property {() => State & {mean: number, variance: number}} init
 * @property {(state: State & {mean: number, variance: number}, batch: Moments) =>
 *   State & {mean: number, variance: number}} update
 */

const START = { mean: 0, variance: 1 };

/**
 * How a moving average moves.
 * @typedef {object} Settings
 * @property {number} [decay] weight of the old value
 * @property {boolean} [unbiased] whether the unbiased variance is averaged
 * @property {import("./precision.js").Round} [round] to the statistics' type; float32 unless given
 */

/**
 * Return what a moving average takes of a batch: its variance, and whether there is one.
 * @param {Moments} batch
 * @param {Required<Settings>} settings
 */
function varianceOf(batch, { unbiased, round }) {
  const biased = round(batch.variance);
  return {
    variance: unbiased ? unbiasedVariance(biased, batch.count, round) : biased,
    counts: batch.count > (unbiased ? 1 : 0),
  };
}

/**
 * Keras's moving average: decay * old + (1 - decay) * batch.
 * @param {Settings} [settings]
 * @returns {Policy<{}>}
 */
export function exponentialMovingAverage({
  decay = 0.99,
  unbiased = false,
  round = Math.fround,
} = {}) {
  // 1 - decay is taken before either is rounded, as Python does.
  const [keep, take] = [round(decay), round(1 - decay)];
  const moved = (/** @type {number} */ old, /** @type {number} */ batch) =>
    round(round(keep * old) + round(take * batch));
  return {
    init: () => ({ ...START }),
    update(state, batch) {
      const { variance, counts } = varianceOf(batch, { decay, unbiased, round });
      return {
        mean: batch.count > 0 ? moved(state.mean, round(batch.mean)) : state.mean,
        variance: counts ? moved(state.variance, variance) : state.variance,
      };
    },
  };
}

/**
 * The same without its start: weights decay**age that add to one.
 * @param {Settings} [settings]
 * @returns {Policy<{meanWeight: number, varianceWeight: number}>}
 */
export function debiasedMovingAverage({
  decay = 0.99,
  unbiased = false,
  round = Math.fround,
} = {}) {
  const [keep, take] = [round(decay), round(1 - decay)];
  const moved = (
    /** @type {number} */ old,
    /** @type {number} */ batch,
    /** @type {number} */ weight,
  ) => {
    const next = round(round(keep * weight) + take);
    const share = round(take / next);
    return [round(round(round(1 - share) * old) + round(share * batch)), next];
  };
  return {
    init: () => ({ ...START, meanWeight: 0, varianceWeight: 0 }),
    update(state, batch) {
      const taken = varianceOf(batch, { decay, unbiased, round });
      const [mean, meanWeight] =
        batch.count > 0
          ? moved(state.mean, round(batch.mean), state.meanWeight)
          : [state.mean, state.meanWeight];
      const [variance, varianceWeight] = taken.counts
        ? moved(state.variance, taken.variance, state.varianceWeight)
        : [state.variance, state.varianceWeight];
      return { mean, variance, meanWeight, varianceWeight };
    },
  };
}

/**
 * Alg. 2, l. 10: the average of the batches' means and of their unbiased variances.
 * @returns {Policy<{count: number, freedom: number}>}
 */
export function averageOfBatches() {
  return {
    init: () => ({ ...START, count: 0, freedom: 0 }),
    update(state, batch) {
      const freedom = Math.max(batch.count - 1, 0);
      const count = state.count + batch.count;
      const allFreedom = state.freedom + freedom;
      const mean = (state.count * state.mean + batch.count * batch.mean) / count;
      const variance = (state.freedom * state.variance + batch.count * batch.variance) / allFreedom;
      return {
        mean: batch.count > 0 ? Math.fround(mean) : state.mean,
        variance: freedom > 0 ? Math.fround(variance) : state.variance,
        count,
        freedom: allFreedom,
      };
    },
  };
}

/**
 * Mean and biased variance of all samples, as if they had come in one batch.
 * @returns {Policy<{count: number}>}
 */
export function pooledPopulation() {
  return {
    init: () => ({ ...START, count: 0 }),
    update(state, batch) {
      const { mean, variance, count } = mergeMoments(state, batch);
      const taken = batch.count > 0;
      return {
        mean: taken ? Math.fround(mean) : state.mean,
        variance: taken ? Math.fround(variance) : state.variance,
        count,
      };
    },
  };
}
