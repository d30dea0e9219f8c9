/** Room 4 without a page: the batches that come, and what each policy makes of them. */

import { biasedVariance, center } from "./algorithm.js";
import { matrix, number, numbers } from "./fields.js";
import {
  averageOfBatches,
  debiasedMovingAverage,
  exponentialMovingAverage,
  pooledPopulation,
} from "./policies.js";
import { normal } from "./sampling.js";
import { tensor } from "./tensor.js";

/** @typedef {import("./algorithm.js").Moments} Moments */
/** @typedef {import("./own.js").OwnLayer} OwnLayer */

/**
 * @typedef {object} State
 * @property {readonly (readonly number[])[]} source mean and standard deviation, before the jump and after
 * @property {readonly number[]} sizes of batches, in turn
 * @property {number} momentum
 * @property {number} batches how many come
 * @property {number} jump after so many of them
 * @property {number} at how many have come
 * @property {number} seed
 * @property {number} layer of the user's model whose batches come; -1 for made up ones
 * @property {number} channel of that layer
 */

/** @typedef {{mean: number, variance: number}} Reading */

export const MOST = { batches: 300, size: 100, sizes: 6 };

const whole =
  (/** @type {number} */ low, /** @type {number} */ high) => (/** @type {number} */ value) =>
    Number.isInteger(value) && value >= low && value <= high;
const isSize = whole(1, MOST.size);
const isMomentum = (/** @type {number} */ value) => value >= 0 && value < 1;

export const fields = {
  source: matrix(
    [
      [5, 2],
      [8, 3],
    ],
    { rows: 2, columns: 2 },
  ),
  sizes: numbers([16], isSize),
  momentum: number(0.99, isMomentum),
  batches: number(200, whole(1, MOST.batches)),
  jump: number(120, whole(0, MOST.batches)),
  at: number(50, whole(0, MOST.batches)),
  seed: number(1, whole(0, 99_999)),
  layer: number(-1, whole(-1, 9999)),
  channel: number(0, whole(0, 99_999)),
};

/** Why a number cannot be, for each thing that is set. */
export const refuse = {
  mean: (/** @type {number} */ value) =>
    Math.abs(value) <= 1e6 ? null : "The mean must be a number from -1e6 to 1e6.",
  spread: (/** @type {number} */ value) =>
    value >= 0 && value <= 1e6 ? null : "A standard deviation is 0 or more, and 1e6 at most here.",
  size: (/** @type {number} */ value) =>
    isSize(value) ? null : `A batch has 1 to ${MOST.size} samples here.`,
  momentum: (/** @type {number} */ value) =>
    isMomentum(value)
      ? null
      : "Momentum is the weight of the old value: 0 or more, and below 1, with which nothing new would ever count.",
  batches: (/** @type {number} */ value) =>
    fields.batches.read(String(value)) === undefined ? `1 to ${MOST.batches} batches come.` : null,
  jump: (/** @type {number} */ value) =>
    fields.jump.read(String(value)) === undefined
      ? `The jump comes after 0 to ${MOST.batches} batches.`
      : null,
  seed: (/** @type {number} */ value) =>
    fields.seed.read(String(value)) === undefined ? "A seed is a whole number up to 99999." : null,
};

/**
 * @param {State} state
 * @returns {State}
 */
export function mend(state) {
  const source = fields.source.initial.map((row, at) => {
    const [mean, spread] = state.source[at] ?? row;
    const fits = refuse.mean(mean) === null && refuse.spread(spread) === null;
    return fits ? [mean, spread] : row;
  });
  const sizes = state.sizes.filter(isSize).slice(0, MOST.sizes);
  return {
    ...state,
    source,
    sizes: sizes.length > 0 ? sizes : fields.sizes.initial,
    jump: Math.min(state.jump, state.batches),
    at: Math.min(state.at, state.batches),
  };
}

/** The policies, in the order in which they are shown; `line` is their colour. */
export const POLICIES = /** @type {const} */ ([
  {
    line: "keras",
    name: "Keras’s momentum",
    python: "bnm.ExponentialMovingAverage(decay=momentum)",
    make: (/** @type {number} */ momentum) => exponentialMovingAverage({ decay: momentum }),
    decay: (/** @type {number} */ momentum) => momentum,
  },
  {
    line: "reversed",
    name: "its reverse",
    python: "bnm.ExponentialMovingAverage(decay=1 - momentum)",
    make: (/** @type {number} */ momentum) => exponentialMovingAverage({ decay: 1 - momentum }),
    decay: (/** @type {number} */ momentum) => 1 - momentum,
  },
  {
    line: "debiased",
    name: "debiased",
    python: "bnm.DebiasedMovingAverage(decay=momentum)",
    make: (/** @type {number} */ momentum) => debiasedMovingAverage({ decay: momentum }),
    decay: (/** @type {number} */ momentum) => momentum,
  },
  {
    line: "average",
    name: "Algorithm 2",
    python: "bnm.AverageOfBatches()",
    make: averageOfBatches,
    decay: () => null,
  },
  {
    line: "pooled",
    name: "pooled",
    python: "bnm.PooledPopulation()",
    make: pooledPopulation,
    decay: () => null,
  },
]);

/**
 * Return the moments of a batch, as `core` computes them.
 * @param {readonly number[]} x
 * @returns {Moments}
 */
export function momentsOf(x) {
  const { mean, deviation } = center(tensor([x.length], x), [0], Math.fround);
  const variance = biasedVariance(deviation, [0], Math.fround);
  return { mean: mean.values[0], variance: variance.values[0], count: x.length };
}

/**
 * Return the batches that come from the distribution that is set.
 * @param {State} state
 * @returns {Moments[]}
 */
export function drawn({ source, sizes, batches, jump, seed }) {
  const next = normal(seed);
  return Array.from({ length: batches }, (_, at) => {
    const [mean, spread] = source[at < jump ? 0 : 1];
    const x = Array.from({ length: sizes[at % sizes.length] }, () =>
      Math.fround(mean + spread * next()),
    );
    return momentsOf(x);
  });
}

/**
 * Follow all policies through the batches.
 * @param {State} state
 * @param {OwnLayer} [layer] of the user's model
 */
export function followed(state, layer) {
  const batches =
    layer === undefined
      ? drawn(state)
      : layer.batches.map(({ count, mean, variance }) => ({
          count,
          mean: mean[state.channel],
          variance: variance[state.channel],
        }));
  const jump = layer === undefined ? state.jump : batches.length;
  const paths = POLICIES.map(({ make }) => {
    const policy = /** @type {import("./policies.js").Policy<any>} */ (make(state.momentum));
    /** @type {Reading[]} */
    const readings = [policy.init()];
    for (const batch of batches) readings.push(policy.update(readings[readings.length - 1], batch));
    return readings;
  });
  // Of a model's data nobody knows the truth; what all of them say together is next to it.
  const all = paths[4][batches.length];
  const truth = batches.map((_, at) => {
    if (layer !== undefined) return all;
    const [mean, spread] = state.source[at < jump ? 0 : 1];
    return { mean, variance: spread * spread };
  });
  return { batches, jump, paths, truth };
}

/** @typedef {ReturnType<typeof followed>} Followed */

/**
 * Return what a policy's mean is made of: shares of its start, of what came before the jump, and
 * of what came after it.
 * @param {number} which of the policies
 * @param {State} state
 * @param {Followed} found
 * @param {number} [at] after how many batches
 */
export function madeOf(which, state, { batches, jump }, at = state.at) {
  if (at === 0) return { start: 1, before: 0, after: 0 };
  const decay = POLICIES[which].decay(state.momentum);
  const since = Math.max(at - jump, 0);
  if (decay === null) {
    const count = (/** @type {Moments[]} */ some) =>
      some.reduce((sum, each) => sum + each.count, 0);
    const after = count(batches.slice(jump, Math.max(at, jump))) / count(batches.slice(0, at));
    return { start: 0, before: 1 - after, after };
  }
  const [start, after] = [decay ** at, 1 - decay ** since];
  const before = decay ** since - start;
  if (POLICIES[which].line !== "debiased") return { start, before, after };
  return { start: 0, before: before / (1 - start), after: after / (1 - start) };
}

/**
 * Return from when on a policy can be trusted: half of its start's weight is gone, from mean and
 * variance; and from when on after the jump, half of all that came before it is.
 * @param {number} which of the policies
 * @param {State} state
 * @param {Followed} found
 */
export function trusted(which, state, found) {
  const { batches, jump } = found;
  const times = batches.map((_, at) => at + 1);
  // One sample says nothing of an unbiased variance.
  const first =
    POLICIES[which].line === "average" ? batches.findIndex(({ count }) => count > 1) : 0;
  const from = times.find((at) => at > first && madeOf(which, state, found, at).start <= 0.5);
  const again = times.find((at) => at > jump && madeOf(which, state, found, at).after >= 0.5);
  return {
    from: first < 0 || from === undefined ? Number.POSITIVE_INFINITY : from,
    again: again ?? Number.POSITIVE_INFINITY,
  };
}
