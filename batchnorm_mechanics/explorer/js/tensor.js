/**
 * Arrays of any rank in row-major order, and the three things that are done with them: a function
 * of each element, of two arrays that broadcast, and a sum along axes, kept with size 1.
 */

/** @typedef {import("./precision.js").Round} Round */
/** @typedef {{shape: readonly number[], values: readonly number[]}} Tensor */

/**
 * @param {readonly number[]} shape
 * @param {readonly number[]} values
 * @returns {Tensor}
 */
export function tensor(shape, values) {
  return { shape, values };
}

/**
 * Return a matrix as a tensor.
 * @param {readonly (readonly number[])[]} rows
 */
export function fromRows(rows) {
  return tensor([rows.length, rows[0]?.length ?? 0], rows.flat());
}

/**
 * Return a matrix's rows.
 * @param {Tensor} matrix
 * @returns {number[][]}
 */
export function toRows({ shape, values }) {
  const [rows = 0, columns = 0] = shape;
  return Array.from({ length: rows }, (_, row) => values.slice(row * columns, (row + 1) * columns));
}

/**
 * @param {Tensor} a
 * @param {(value: number) => number} apply
 */
export function map(a, apply) {
  return tensor(a.shape, a.values.map(apply));
}

/**
 * Return by how much the place in an array moves with each index; 0 along an axis of size 1.
 * @param {readonly number[]} shape
 */
function strides(shape) {
  const found = shape.map(() => 0);
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis -= 1) {
    found[axis] = shape[axis] === 1 ? 0 : step;
    step *= shape[axis];
  }
  return found;
}

/**
 * Call with each index of a shape, in row-major order. The index is one array that changes.
 * @param {readonly number[]} shape
 * @param {(index: number[]) => void} visit
 */
export function eachIndex(shape, visit) {
  if (shape.includes(0)) return;
  const index = shape.map(() => 0);
  for (;;) {
    visit(index);
    let axis = shape.length - 1;
    while (axis >= 0) {
      index[axis] += 1;
      if (index[axis] < shape[axis]) break;
      index[axis] = 0;
      axis -= 1;
    }
    if (axis < 0) return;
  }
}

/**
 * @param {readonly number[]} index
 * @param {readonly number[]} steps
 */
function place(index, steps) {
  let at = 0;
  for (let axis = 0; axis < index.length; axis += 1) at += index[axis] * steps[axis];
  return at;
}

/**
 * Return a function of two arrays of one rank; an axis of size 1 stretches.
 * @param {Tensor} a
 * @param {Tensor} b
 * @param {(a: number, b: number) => number} apply
 * @returns {Tensor}
 */
export function combine(a, b, apply) {
  const shape = a.shape.map((size, axis) => (size === 1 ? b.shape[axis] : size));
  const [stepsA, stepsB] = [strides(a.shape), strides(b.shape)];
  /** @type {number[]} */
  const values = [];
  eachIndex(shape, (index) => {
    values.push(apply(a.values[place(index, stepsA)], b.values[place(index, stepsB)]));
  });
  return tensor(shape, values);
}

/**
 * Return the sum along axes, kept with size 1: one running sum, in the order of the elements.
 * @param {Tensor} a
 * @param {readonly number[]} axes
 * @param {Round} round
 * @returns {Tensor}
 */
export function sum(a, axes, round) {
  const shape = a.shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
  const steps = strides(shape);
  /** @type {number[]} */
  const values = Array(shape.reduce((product, size) => product * size, 1)).fill(0);
  let next = 0;
  eachIndex(a.shape, (index) => {
    const at = place(index, steps);
    values[at] = round(values[at] + a.values[next]);
    next += 1;
  });
  return tensor(shape, values);
}

/**
 * Return parameters of the kept axes in a shape that broadcasts with the input.
 * @param {readonly number[]} values in the order of the kept axes
 * @param {readonly number[]} shape of the input
 * @param {readonly number[]} axes reduced over
 */
export function align(values, shape, axes) {
  return tensor(
    shape.map((size, axis) => (axes.includes(axis) ? 1 : size)),
    values,
  );
}
