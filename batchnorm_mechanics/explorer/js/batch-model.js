/** Room 1 without a page: its state, and a batch's numbers in training and in inference. */

import { forward, infer } from "./algorithm.js";
import { matrix, number, numbers } from "./fields.js";
import { python } from "./numbers.js";
import { fromRows, toRows } from "./tensor.js";

export const MOST = { rows: 16, columns: 8 };

/** The first example of the notebooks that the project began with. */
export const SOURCE = {
  x: [
    [1, 2, 3],
    [4, 5, 6],
  ],
  gamma: 2,
  beta: 1,
  epsilon: 1e-3,
};

/**
 * @typedef {object} State
 * @property {readonly (readonly number[])[]} x a row for each sample
 * @property {readonly number[]} gamma
 * @property {readonly number[]} beta
 * @property {number} epsilon
 * @property {readonly number[]} mean the moving one
 * @property {readonly number[]} variance the moving one
 * @property {number} channel that is drawn
 * @property {number} answer how much of the answer to the first question is shown: 0, 1 or 2
 */

const each = (/** @type {number} */ value) => SOURCE.x[0].map(() => value);

/** @param {number} value */
export function refuseEpsilon(value) {
  if (value > 0 && value < Number.POSITIVE_INFINITY) return null;
  return value === 0
    ? "With ε = 0 a channel whose samples are all alike would be divided by 0."
    : "ε must be positive and finite: it keeps a channel without spread from being divided by 0.";
}

/** @param {number} value */
export function refuseVariance(value) {
  return value >= 0 ? null : "A variance is an average of squares, so it is 0 or more.";
}

const notNegative = (/** @type {number} */ value) => refuseVariance(value) === null;

export const fields = {
  x: matrix(SOURCE.x, MOST),
  gamma: numbers(each(SOURCE.gamma)),
  beta: numbers(each(SOURCE.beta)),
  epsilon: number(SOURCE.epsilon, (value) => refuseEpsilon(value) === null),
  mean: numbers(each(0)),
  variance: numbers(each(1), notNegative),
  channel: number(0, Number.isInteger),
  answer: number(0, (value) => [0, 1, 2].includes(value)),
};

/**
 * Return one number for each channel: what is missing is filled up, what is too much cut off.
 * @param {readonly number[]} values
 * @param {number} channels
 * @param {number} fill
 */
export function fitted(values, channels, fill) {
  return Array.from({ length: channels }, (_, channel) => values[channel] ?? fill);
}

/**
 * @param {State} state
 * @returns {State}
 */
export function mend(state) {
  const channels = state.x[0].length;
  return {
    ...state,
    gamma: fitted(state.gamma, channels, SOURCE.gamma),
    beta: fitted(state.beta, channels, SOURCE.beta),
    mean: fitted(state.mean, channels, 0),
    variance: fitted(state.variance, channels, 1),
    channel: Math.min(Math.max(state.channel, 0), channels - 1),
  };
}

/**
 * Return a batch with another number of samples or channels: new ones continue the last.
 * @param {readonly (readonly number[])[]} x
 * @param {{samples?: number, channels?: number}} by how many more
 */
export function resized(x, { samples = 0, channels = 0 }) {
  const [rows, columns] = [x.length + samples, x[0].length + channels];
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length: columns }, (_, column) => {
      const value = x[row]?.[column];
      if (value !== undefined) return value;
      const beside = column > 0 ? x[Math.min(row, x.length - 1)][column - 1] : undefined;
      return row < x.length && beside !== undefined ? beside + 1 : 1 + ((7 * row + 3 * column) % 9);
    }),
  );
}

/** @param {State} state */
export function computed(state) {
  const x = fromRows(state.x);
  const options = { axes: [0], epsilon: state.epsilon };
  const { gamma, beta, mean, variance } = state;
  const training = forward(x, { gamma, beta }, options);
  const inference = infer(x, { gamma, beta, mean, variance }, options);
  return {
    training: {
      count: [state.x[0].map(() => state.x.length)],
      mean: toRows(training.mean),
      deviation: toRows(training.deviation),
      variance: toRows(training.variance),
      xHat: toRows(training.xHat),
      y: toRows(training.y),
    },
    // It asks no batch, and so counts nothing.
    inference: {
      mean: [mean],
      deviation: toRows(inference.deviation),
      variance: [variance],
      xHat: toRows(inference.xHat),
      y: toRows(inference.y),
    },
  };
}

/** @typedef {ReturnType<typeof computed>} Computed */
/**
 * Say what is odd about a batch, where it is.
 * @param {State} state
 * @returns {string[]}
 */
export function remarks(state) {
  const found = [];
  if (state.x.length === 1) {
    found.push(
      "A batch of one: each number is its own mean, so x̂ is 0 and training's y is β, whatever x " +
        "is. The network learns nothing from it. Inference is not affected.",
    );
  }
  state.x[0].forEach((_, column) => {
    const channel = state.x.map((sample) => sample[column]);
    const lost = channel.filter((value) => !Number.isFinite(value)).length;
    if (lost > 0) {
      found.push(
        `Channel ${column + 1} holds ${lost === 1 ? "a value that is" : `${lost} values that are`} ` +
          "not finite. In training the mean is lost, and with it the whole channel, for all " +
          "samples; in inference that sample alone.",
      );
    } else if (channel.length > 1 && channel.every((value) => value === channel[0])) {
      found.push(
        `Channel ${column + 1} is the same for all samples: its variance is 0, and ε alone keeps ` +
          "0 / 0 away. y is β.",
      );
    }
  });
  return found;
}

/**
 * Return Python that prints the numbers on the page.
 * @param {State} state
 */
export function code(state) {
  const array = (/** @type {number[] | readonly any[]} */ value) =>
    `np.array(${python(value)}, "float32")`;
  return `import numpy as np
import batchnorm_mechanics as bnm

x = ${array(state.x)}
gamma = ${array(state.gamma)}
beta = ${array(state.beta)}
epsilon = ${python(state.epsilon)}

y, cache = bnm.forward(x, gamma, beta, axes=[0], epsilon=epsilon)
print("mean", cache.mean.numpy().tolist())
print("variance", cache.variance.numpy().tolist())
print("x_hat", cache.x_hat.numpy().tolist())
print("y, training", y.numpy().tolist())

moving_mean = ${array(state.mean)}
moving_variance = ${array(state.variance)}
y = bnm.infer(x, moving_mean, moving_variance, gamma, beta, axes=[0], epsilon=epsilon)
print("y, inference", y.numpy().tolist())
`;
}
