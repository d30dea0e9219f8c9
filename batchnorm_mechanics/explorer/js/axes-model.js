/** Room 2 without a page: which numbers of a 4-D input share a mean, and how the axes add up. */

import { average, biasedVariance, center, countOf, momentsOneAxisAtATime } from "./algorithm.js";
import { numbers } from "./fields.js";
import { exact, joined, python, shown, term } from "./numbers.js";
import { eachIndex, tensor } from "./tensor.js";

/** Samples, height, width, channels: the notebooks' second example. */
export const SHAPE = [2, 2, 3, 2];
export const AXES = ["samples", "height", "width", "channels"];
const SIZE = 24;

/**
 * @typedef {object} State
 * @property {readonly number[]} x in row-major order
 * @property {readonly number[]} axes reduced over, in the order in which they are taken
 * @property {readonly number[]} group whose variance is taken apart: one number
 */

const isAxis = (/** @type {number} */ value) => [0, 1, 2, 3].includes(value);

export const fields = {
  x: numbers(Array.from({ length: SIZE }, (_, index) => index)),
  axes: numbers([0, 1, 2], isAxis),
  group: numbers([0], (value) => Number.isInteger(value) && value >= 0),
};

/**
 * @param {State} state
 * @returns {State}
 */
export function mend(state) {
  const x = state.x.length === SIZE ? state.x : fields.x.initial;
  const once = [...new Set(state.axes)];
  const axes = once.length > 0 ? once : fields.axes.initial;
  const groups = SIZE / countOf(SHAPE, axes);
  return { x, axes, group: [Math.min(state.group[0] ?? 0, groups - 1)] };
}

/**
 * Return the number of the group of each element, in row-major order of what is kept.
 * @param {readonly number[]} axes reduced over
 */
export function groupsOf(axes) {
  /** @type {number[]} */
  const found = [];
  eachIndex(SHAPE, (index) => {
    found.push(
      index.reduce(
        (group, at, axis) => (axes.includes(axis) ? group : group * SHAPE[axis] + at),
        0,
      ),
    );
  });
  return found;
}

/**
 * Return a group's name: a letter, so that colours are not all that tells them apart.
 * @param {number} group
 */
export function letter(group) {
  return String.fromCharCode(65 + group);
}

/** @param {State} state */
export function computed(state) {
  const { axes } = state;
  const round = Math.fround;
  const x = tensor(SHAPE, state.x.map(round));
  const sorted = axes.toSorted();
  const { deviation, mean } = center(x, sorted, round);
  const group = state.group[0];
  const steps = momentsOneAxisAtATime(x, axes).map((step, done) => {
    // What the axes that are still to come would average: one number for the group.
    const own = (/** @type {import("./tensor.js").Tensor} */ value) =>
      average(value, axes.slice(done + 1), round).values[group];
    return {
      axis: step.axis,
      parts: countOf(SHAPE, axes.slice(done + 1)),
      meanOfVariances: own(step.meanOfVariances),
      varianceOfMeans: own(step.varianceOfMeans),
      variance: own(step.variance),
    };
  });
  return {
    groups: groupsOf(axes),
    count: countOf(SHAPE, axes),
    mean: mean.values,
    variance: biasedVariance(deviation, sorted, round).values,
    steps,
  };
}

/** @typedef {ReturnType<typeof computed>} Computed */

/** Where an element lies: in the grid of its sample and channel. */
export const CELLS = (() => {
  /** @type {string[]} */
  const found = [];
  eachIndex(SHAPE, ([sample, row, column, channel]) => {
    found.push(`x${sample}${channel}.${row}.${column}`);
  });
  return found;
})();

/**
 * Cells are those of `CELLS`, `groups.g.0` to `.2` (count, mean, variance of a group) and
 * `steps.s.0` to `.2` (mean of variances, variance of means, variance after an axis).
 * @param {State} state
 * @param {Computed} values
 * @returns {import("./formula.js").Model}
 */
export function model(state, values) {
  const members = (/** @type {number} */ group) =>
    values.groups.flatMap((of, element) => (of === group ? [element] : []));

  /** @param {string} cell */
  function read(cell) {
    const [name, row, column] = cell.split(".");
    return { name, row: Number(row), column: Number(column), element: CELLS.indexOf(cell) };
  }

  return {
    wiring: `${state.axes} ${state.group}`,
    from(cell) {
      const { name, row, column } = read(cell);
      if (name === "groups") {
        const own = members(row).map((element) => CELLS[element]);
        return column === 2 ? [...own, `groups.${row}.1`] : own;
      }
      if (name !== "steps") return [];
      if (column === 2) return [`steps.${row}.0`, `steps.${row}.1`];
      if (column === 0) return row === 0 ? [] : [`steps.${row - 1}.2`];
      return members(state.group[0]).map((element) => CELLS[element]);
    },
    explain(cell) {
      const { name, row, column, element } = read(cell);
      if (element >= 0) return aboutElement(state, values, element);
      if (name === "groups") return aboutGroup(state, values, row, column, members(row));
      return name === "steps" ? aboutStep(values, row, column) : undefined;
    },
  };
}

/**
 * @param {State} state
 * @param {Computed} values
 * @param {number} element
 * @returns {import("./formula.js").Explanation}
 */
function aboutElement(state, values, element) {
  const group = values.groups[element];
  const own = values.groups.flatMap((of, at) => (of === group ? [state.x[at]] : []));
  return {
    title: `x of group ${letter(group)}, which has ${values.count} numbers`,
    result: exact(state.x[element]),
    note: `It shares its mean, ${shown(values.mean[group])}, with ${
      own.length === 1
        ? "no other number"
        : `these: ${joined(
            own.map((value) => shown(value)),
            ", ",
          )}`
    }.`,
  };
}

/**
 * @param {State} state
 * @param {Computed} values
 * @param {number} group
 * @param {number} column
 * @param {readonly number[]} members
 * @returns {import("./formula.js").Explanation | undefined}
 */
function aboutGroup(state, values, group, column, members) {
  const name = `group ${letter(group)}`;
  const own = members.map((element) => state.x[element]);
  const mean = values.mean[group];
  switch (column) {
    case 0:
      return {
        title: `Count of ${name}`,
        formula: "m′ = product of the sizes of the axes",
        numbers: state.axes.map((axis) => SHAPE[axis]).join(" · "),
        result: String(values.count),
      };
    case 1:
      return {
        title: `Mean of ${name}`,
        formula: "μ = Σ x / m′",
        numbers: `(${joined(own.map((value) => term(value)))}) / ${values.count}`,
        result: exact(mean),
      };
    case 2:
      return {
        title: `Variance of ${name}`,
        formula: "σ² = Σ (x − μ)² / m′",
        numbers: `(${joined(own.map((value) => `${term(value - mean)}²`))}) / ${values.count}`,
        result: exact(values.variance[group]),
      };
    default:
      return undefined;
  }
}

/**
 * @param {Computed} values
 * @param {number} row
 * @param {number} column
 * @returns {import("./formula.js").Explanation | undefined}
 */
function aboutStep(values, row, column) {
  const step = values.steps[row];
  if (step === undefined) return undefined;
  const axis = `axis ${step.axis} (${AXES[step.axis]})`;
  const parts = step.parts > 1 ? `Averaged over the ${step.parts} parts that are left.` : "";
  switch (column) {
    case 0:
      return {
        title: `Mean of the variances before ${axis} is taken`,
        result: exact(step.meanOfVariances),
        note: row === 0 ? "A single number does not vary." : parts,
      };
    case 1:
      return {
        title: `Variance of the means along ${axis}`,
        result: exact(step.varianceOfMeans),
        note: `This is what ${axis} adds. ${parts}`,
      };
    default:
      return {
        title: `Variance after ${axis}`,
        formula: "mean of variances + variance of means",
        numbers: `${shown(step.meanOfVariances)} + ${shown(step.varianceOfMeans)}`,
        result: exact(step.variance),
      };
  }
}

/**
 * Return Python that prints the numbers on the page.
 * @param {State} state
 */
export function code(state) {
  return `import numpy as np
import batchnorm_mechanics as bnm

x = np.array(${python(state.x)}, "float32").reshape(${SHAPE.join(", ")})
axes = [${state.axes.join(", ")}]

mean, variance, count = bnm.moments(x, axes)
print("mean", mean.numpy().ravel().tolist())
print("variance", variance.numpy().ravel().tolist())
print("count", int(count.numpy().ravel()[0]))

for step in bnm.moments_one_axis_at_a_time(x, axes):
    print("axis", step.axis, "variance", step.variance.numpy().ravel().tolist())
`;
}
