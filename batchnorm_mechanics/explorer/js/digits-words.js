/** What room 5 says of its numbers, the bits that it draws of them, and its Python. */

import { bitsLeft } from "./bits-model.js";
import { aboutEpsilon, TYPES } from "./digits-model.js";
import { python, shown } from "./numbers.js";
import { FORMAT, lastPlace } from "./precision.js";

/** @typedef {import("./digits-model.js").State} State */
/** @typedef {import("./digits-model.js").Computed} Computed */
/** @typedef {import("./digits-model.js").Type} Type */
/** @typedef {import("./bits-model.js").Written} Written */

/**
 * Return the subtraction in which the chosen formula loses its digits, and what it should give.
 * @param {State} state
 * @param {Computed} found in the type that is shown
 */
export function subtraction({ formula, sample, dtype }, found) {
  const { stored, right, squares, tfnn, shifted } = found;
  const { mean, variance } = right;
  switch (formula) {
    case "squares":
      return {
        type: dtype,
        from: { label: "E[x²]", value: squares.ofSquares },
        take: { label: "E[x]²", value: squares.squared },
        result: { label: "their difference", value: squares.variance },
        truth: { label: "the variance in float64", value: variance },
        what: "the variance",
      };
    case "tfnn":
      return {
        type: dtype,
        from: { label: "x · inv", value: tfnn.products[sample] },
        take: { label: "μ · inv", value: tfnn.offset },
        result: { label: "y, their difference", value: tfnn.y[sample] },
        truth: { label: "y in float64", value: right.y[sample] },
        what: "y",
      };
    default:
      return {
        type: /** @type {Type} */ ("float32"),
        from: { label: "x", value: stored[sample] },
        take: { label: "shift, the rounded mean", value: shifted.shift },
        result: { label: "their difference", value: shifted.shifted[sample] },
        truth: {
          label: "it in float64",
          value: right.deviation[sample] + (mean - shifted.shift),
        },
        what: "the difference",
      };
  }
}

/**
 * Return the rows of bits of that subtraction.
 * @param {ReturnType<typeof subtraction>} of
 * @returns {Written[]}
 */
export function subtractionBits({ type, from, take, result, truth }) {
  const format = FORMAT[type];
  const known = [from.value, take.value].filter(Number.isFinite);
  // Nothing below the last place of the larger can be in a difference.
  const step = Math.max(...known.map((value) => lastPlace(value, format)));
  return [
    { ...from, format },
    { ...take, format },
    { ...result, format: known.length < 2 ? format : ending(step, format) },
    { ...truth, format: null, lostFrom: known.length < 2 ? Number.POSITIVE_INFINITY : step - 1 },
  ];
}

/**
 * Return a format all of whose numbers end where a difference ends.
 * @param {number} step exponent
 * @param {import("./precision.js").Format} format
 */
function ending(step, format) {
  return { ...format, smallest: step + format.significant - 1 };
}

/**
 * Say how much of a result is left.
 * @param {ReturnType<typeof subtraction>} of
 */
export function sentence({ type, from, take, truth, what }) {
  const { significant, largest } = FORMAT[type];
  if (![from.value, take.value].every(Number.isFinite)) {
    return `${from.label} is past ${shown(largest, 6)}, where ${type} ends: it is infinite, and ${what} is no number.`;
  }
  const larger = Math.max(Math.abs(from.value), Math.abs(take.value));
  const left = bitsLeft(truth.value, larger, FORMAT[type]);
  const room = `${type} has room for ${significant} bits of ${from.label}`;
  if (left === 0) return `${room}. All bits of ${what} lie below them: nothing of it is left.`;
  if (left === significant) return `${room}, and for all of ${what}: nothing is lost here.`;
  const within = left === 1 ? "one lies" : `${left} lie`;
  return `${room}. Of ${what}’s own ${significant}, the first ${within} within them; ${significant - left} are lost.`;
}

/**
 * Say what is lost before batch norm begins, and what is no number.
 * @param {State} state
 * @param {Computed} found in the type that is shown
 */
export function remarks({ x, dtype, mean }, found) {
  const said = [];
  const { largest } = FORMAT[dtype];
  const [wanted, held] = [new Set(x).size, new Set(found.stored).size];
  if (found.stored.some((value) => !Number.isFinite(value))) {
    said.push(`x itself is past ${shown(largest, 6)}, where ${dtype} ends: no formula can help.`);
  } else if (held < wanted) {
    said.push(
      `At a mean of ${shown(mean, 6)} ${dtype} holds ${held === 1 ? "one value" : `only ${held} different values`} for ${wanted} ` +
        "different samples: these digits are lost before batch norm begins, and no formula brings them back.",
    );
  }
  if (found.squares.variance < 0) {
    said.push(
      `E[x²] − E[x]² gives the variance ${shown(found.squares.variance)}: below 0, which no variance can be, and past ε the root of it is no number.`,
    );
  }
  if (Number.isFinite(found.stored[0]) && !Number.isFinite(found.squares.ofSquares)) {
    said.push(
      `x² is past ${shown(largest, 6)}, where ${dtype} ends, although x is not: E[x²] is infinite.`,
    );
  }
  return said;
}

/**
 * Say what becomes of epsilon.
 * @param {State} state
 */
export function epsilonSentence(state) {
  const { variance, small } = state;
  return TYPES.map((type) => {
    const found = aboutEpsilon(state, type);
    if (small > 0 && found.epsilon === 0) {
      const least = 2 ** lastPlace(0, FORMAT[type]);
      return `${type} holds nothing between 0 and ${shown(least, 2)}, so ε is 0 there${found.sum === 0 ? ", and 1 / √0 is infinite: 0 · inf is no number" : ""}.`;
    }
    if (found.sum === found.variance && small > 0) {
      const step = 2 ** lastPlace(found.variance, FORMAT[type]);
      return `${type}’s numbers are ${shown(step, 2)} apart at ${shown(variance)}, so that ε changes nothing.`;
    }
    if (found.sum === 0) return `In ${type} 1 / √0 is infinite.`;
    return `In ${type} ε counts.`;
  });
}

/**
 * Return the rows of bits of variance plus epsilon in half precision.
 * @param {State} state
 * @returns {Written[]}
 */
export function epsilonBits(state) {
  const dtype = "float16";
  const { small } = state;
  const format = FORMAT[dtype];
  const { variance, sum } = aboutEpsilon(state, dtype);
  const step = lastPlace(sum, format);
  const least = {
    label: `the smallest number of ${dtype}`,
    value: 2 ** lastPlace(0, format),
    format,
  };
  return [
    ...(small > 0 && small < least.value ? [least] : []),
    { label: `σ² in ${dtype}`, value: variance, format },
    { label: "ε as it is meant", value: small, format: null, lostFrom: step - 1 },
    { label: `σ² + ε in ${dtype}`, value: sum, format },
  ];
}

/**
 * Return Python that prints the numbers on the page.
 * @param {State} state
 */
export function code({ mean, x, epsilon, dtype, variance, small }) {
  return `import ml_dtypes
import numpy as np
import tensorflow as tf
import batchnorm_mechanics as bnm

dtype = ${dtype === "bfloat16" ? "ml_dtypes.bfloat16" : `np.${dtype}`}
np.seterr(all="ignore")
meant = ${python(mean)} + np.array(${python(x)})
x = meant.astype(dtype)
epsilon = ${python(epsilon)}

def average(values):
    total = dtype(0)
    for value in values:
        total = total + value
    return total / dtype(len(values))

def show(name, y):
    print(name, np.asarray(y, "float64").ravel().tolist())

show("x", x)
wide = x.astype("float64")
show("float64", (wide - wide.mean()) / np.sqrt(wide.var() + epsilon))

mean_of_x = average(x)
variance = average(x * x) - mean_of_x * mean_of_x
show("squares", (x - mean_of_x) / np.sqrt(variance + dtype(epsilon)))

# TensorFlow itself: its 1 / sqrt may differ from the page's in the last digit.
moments = bnm.moments(x.astype("float32")[:, None], axes=[0])
own = [tf.constant(np.asarray(value).astype(dtype)) for value in moments[:2]]
y = tf.nn.batch_normalization(tf.constant(x[:, None]), *own, None, None, dtype(epsilon))
show("tfnn", y)

y, _ = bnm.forward(tf.constant(x[:, None]), 1.0, 0.0, axes=[0], epsilon=epsilon)
show("shifted", y)

held = dtype(${python(variance)})
show("variance + epsilon", held + dtype(${python(small)}))
`;
}
