/** Room 3 without a page: the six gradients of a batch, and the two sums that must vanish. */

import { forward } from "./algorithm.js";
import { fitted, MOST, refuseEpsilon } from "./batch-model.js";
import { flag, matrix, number, numbers } from "./fields.js";
import { gradients } from "./gradients.js";
import { python } from "./numbers.js";
import { combine, fromRows, sum, toRows } from "./tensor.js";

/**
 * @typedef {object} State
 * @property {readonly (readonly number[])[]} x a row for each sample
 * @property {readonly (readonly number[])[]} dy the loss's gradient by y, likewise
 * @property {readonly number[]} gamma
 * @property {number} epsilon
 * @property {boolean} throughMean whether dx takes in the way through the mean
 * @property {boolean} throughVariance likewise
 * @property {number} channel that the sums are drawn of
 */

const X = [
  [1, 2],
  [2, 0],
  [4, 3],
  [9, 1],
];
const DY = [
  [1, 0.5],
  [0, -1],
  [-0.5, 2],
  [0, 0],
];
const GAMMA = 2;

export const fields = {
  x: matrix(X, MOST),
  dy: matrix(DY, MOST),
  gamma: numbers([GAMMA, GAMMA]),
  epsilon: number(1e-3, (value) => refuseEpsilon(value) === null),
  throughMean: flag(true),
  throughVariance: flag(true),
  channel: number(0, Number.isInteger),
};

/**
 * @param {State} state
 * @returns {State}
 */
export function mend(state) {
  const [samples, channels] = [state.x.length, state.x[0].length];
  return {
    ...state,
    dy: Array.from({ length: samples }, (_, row) => fitted(state.dy[row] ?? [], channels, 0)),
    gamma: fitted(state.gamma, channels, GAMMA),
    channel: Math.min(Math.max(state.channel, 0), channels - 1),
  };
}

/** @param {State} state */
export function computed(state) {
  const x = fromRows(state.x);
  const parameters = { gamma: state.gamma, beta: state.gamma.map(() => 0) };
  const cache = forward(x, parameters, { axes: [0], epsilon: state.epsilon });
  const found = gradients(fromRows(state.dy), cache, {
    mean: state.throughMean,
    variance: state.throughVariance,
  });
  const { round } = cache;
  /** @param {import("./tensor.js").Tensor} part */
  const sums = (part) => ({
    plain: sum(part, [0], round).values,
    byXHat: sum(
      combine(part, cache.xHat, (a, b) => round(a * b)),
      [0],
      round,
    ).values,
  });
  return {
    count: cache.count,
    mean: toRows(cache.mean),
    variance: toRows(cache.variance),
    deviation: toRows(cache.deviation),
    inverseStd: toRows(cache.inverseStd),
    xHat: toRows(cache.xHat),
    dXHat: toRows(found.dXHat),
    dVariance: toRows(found.dVariance),
    dMean: toRows(found.dMean),
    dX: toRows(found.dX),
    dGamma: toRows(found.dGamma),
    dBeta: toRows(found.dBeta),
    ways: {
      direct: toRows(found.ways.direct),
      variance: toRows(found.ways.variance),
      mean: toRows(found.ways.mean),
    },
    sums: {
      direct: sums(found.ways.direct),
      variance: sums(found.ways.variance),
      mean: sums(found.ways.mean),
      total: sums(found.dX),
    },
  };
}

/** @typedef {ReturnType<typeof computed>} Computed */

/**
 * One of the two sums of a channel, and what became of it.
 * @typedef {object} Balance
 * @property {readonly {name: string, value: number}[]} parts by the ways that they come
 * @property {number} total
 * @property {number} due what must be left of it: nothing, or epsilon's share
 * @property {boolean} vanishes whether it does, but for rounding
 */

const NAMES = /** @type {const} */ ([
  ["direct", "straight"],
  ["variance", "through the variance"],
  ["mean", "through the mean"],
]);

/**
 * Return the sums of dx and of dx · x̂ over a channel's samples.
 *
 * The first is 0, for moving a whole channel changes no x̂. The second is 0 but for the share that
 * epsilon has of variance + epsilon, for stretching a channel changes x̂ by no more than that.
 * @param {State} state
 * @param {Computed} values
 * @returns {{plain: Balance, byXHat: Balance}}
 */
export function balances(state, values) {
  const { channel } = state;
  const share = state.epsilon / (values.variance[0][channel] + state.epsilon);
  /**
   * @param {"plain" | "byXHat"} which
   * @param {number} due
   * @returns {Balance}
   */
  const balance = (which, due) => {
    const parts = NAMES.map(([way, name]) => ({ name, value: values.sums[way][which][channel] }));
    const total = values.sums.total[which][channel];
    const size = values.dX.reduce(
      (most, row, sample) =>
        most + Math.abs(row[channel]) + Math.abs(values.ways.direct[sample][channel]),
      0,
    );
    return { parts, total, due, vanishes: Math.abs(total - due) <= 2e-6 * size + 1e-30 };
  };
  return {
    plain: balance("plain", 0),
    byXHat: balance("byXHat", share * values.sums.direct.byXHat[channel]),
  };
}

/**
 * Say what is odd about a batch's gradients.
 * @param {State} state
 * @param {Computed} values
 * @returns {string[]}
 */
export function remarks(state, values) {
  const found = [];
  if (state.x.length === 1) {
    found.push("A batch of one: y is β whatever x is, so no gradient reaches x.");
  } else if (state.x.length === 2) {
    found.push(
      "With two samples x̂ is always close to −1 and 1, whatever they are: hardly any gradient " +
        "reaches x.",
    );
  }
  if (values.dX.flat().some((value) => !Number.isFinite(value))) {
    found.push(
      "A value that is not finite is in the batch: it takes its channel’s gradients along.",
    );
  }
  if (!state.throughMean || !state.throughVariance) {
    found.push("A way is switched off: dx is wrong now, on purpose.");
  }
  return found;
}

/**
 * Return Python that prints the numbers on the page.
 * @param {State} state
 */
export function code(state) {
  const array = (/** @type {readonly any[]} */ value) => `np.array(${python(value)}, "float32")`;
  const whole = state.throughMean && state.throughVariance;
  const ways = [
    "g.d_x_hat * cache.inverse_std",
    ...(state.throughVariance ? ["g.d_variance * 2 * cache.deviation / len(x)"] : []),
    ...(state.throughMean ? ["g.d_mean / len(x)"] : []),
  ];
  const dx = whole ? "g.d_x" : `${ways.join(" + ")}  # a way is left out: this is wrong on purpose`;
  return `import numpy as np
import batchnorm_mechanics as bnm

x = ${array(state.x)}
dy = ${array(state.dy)}
gamma = ${array(state.gamma)}

y, cache = bnm.forward(x, gamma, axes=[0], epsilon=${python(state.epsilon)})
g = bnm.gradients(dy, cache)
print("d_x_hat", g.d_x_hat.numpy().tolist())
print("d_variance", g.d_variance.numpy().tolist())
print("d_mean", g.d_mean.numpy().tolist())
d_x = ${dx}
print("d_x", d_x.numpy().tolist())
print("d_gamma", g.d_gamma.numpy().tolist())
print("d_beta", g.d_beta.numpy().tolist())
print("sum of d_x", d_x.numpy().sum(0).tolist())
print("sum of d_x * x_hat", (d_x * cache.x_hat).numpy().sum(0).tolist())
`;
}
