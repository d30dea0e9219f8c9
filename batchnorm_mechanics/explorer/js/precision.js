/**
 * Rounding to the types that batch norm is computed in.
 *
 * JavaScript computes in float64. One operation on two float32 numbers, rounded to float32 at once,
 * is what float32 hardware gives: 53 bits are more than twice 24 and two, so that rounding twice
 * changes nothing. Hence one `round` after every operation, and never after two.
 */

/** @typedef {(value: number) => number} Round */
/** @typedef {"float64" | "float32" | "bfloat16" | "float16"} Dtype */

const bits = new DataView(new ArrayBuffer(8));

/**
 * Return the exponent of the power of two at or below a number's size.
 * @param {number} value finite and not 0
 */
function exponentOf(value) {
  bits.setFloat64(0, value);
  return ((bits.getUint16(0) >> 4) & 0x7ff) - 1023;
}

/**
 * Return the rounding to a type of so many significant bits, to nearest, ties to even.
 * @param {number} significant with the leading one
 * @param {number} smallest exponent of the smallest normal number
 * @param {number} largest number of the type
 * @returns {Round}
 */
function roundTo(significant, smallest, largest) {
  return (value) => {
    if (!Number.isFinite(value) || value === 0) return value;
    const step = 2 ** (Math.max(exponentOf(value), smallest) - significant + 1);
    const steps = value / step;
    const down = Math.floor(steps);
    const rest = steps - down;
    const up = rest > 0.5 || (rest === 0.5 && down % 2 !== 0);
    const rounded = (up ? down + 1 : down) * step;
    return Math.abs(rounded) > largest ? Math.sign(value) * Number.POSITIVE_INFINITY : rounded;
  };
}

/** @type {Record<Dtype, Round>} */
export const ROUND = {
  float64: (value) => value,
  float32: Math.fround,
  bfloat16: roundTo(8, -126, (2 - 2 ** -7) * 2 ** 127),
  float16: roundTo(11, -14, 65504),
};

/**
 * Return the type of the statistics of data of a type: as in `core`, float32 at least.
 * @param {Dtype} dtype
 * @returns {Dtype}
 */
export function wide(dtype) {
  return dtype === "float64" ? "float64" : "float32";
}
