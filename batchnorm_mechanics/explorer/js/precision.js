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
export function exponentOf(value) {
  bits.setFloat64(0, value);
  return ((bits.getUint16(0) >> 4) & 0x7ff) - 1023;
}

/**
 * How a type is made.
 * @typedef {object} Format
 * @property {number} significant bits, with the leading one
 * @property {number} smallest exponent of the smallest normal number
 * @property {number} largest number
 */

/** @type {Record<Exclude<Dtype, "float64">, Format>} */
export const FORMAT = {
  float32: { significant: 24, smallest: -126, largest: (2 - 2 ** -23) * 2 ** 127 },
  bfloat16: { significant: 8, smallest: -126, largest: (2 - 2 ** -7) * 2 ** 127 },
  float16: { significant: 11, smallest: -14, largest: 65504 },
};

/**
 * Return the exponent of the last bit that a type has room for in a number.
 * @param {number} value finite
 * @param {Format} format
 */
export function lastPlace(value, { significant, smallest }) {
  const exponent = value === 0 ? smallest : Math.max(exponentOf(value), smallest);
  return exponent - significant + 1;
}

/**
 * Return the rounding to a type, to nearest, ties to even.
 * @param {Format} format
 * @returns {Round}
 */
function roundTo(format) {
  return (value) => {
    if (!Number.isFinite(value) || value === 0) return value;
    const step = 2 ** lastPlace(value, format);
    const steps = value / step;
    const down = Math.floor(steps);
    const rest = steps - down;
    const up = rest > 0.5 || (rest === 0.5 && down % 2 !== 0);
    const rounded = (up ? down + 1 : down) * step;
    return Math.abs(rounded) > format.largest
      ? Math.sign(value) * Number.POSITIVE_INFINITY
      : rounded;
  };
}

/** @type {Record<Dtype, Round>} */
export const ROUND = {
  float64: (value) => value,
  float32: Math.fround,
  bfloat16: roundTo(FORMAT.bfloat16),
  float16: roundTo(FORMAT.float16),
};

/**
 * Return the type of the statistics of data of a type: as in `core`, float32 at least.
 * @param {Dtype} dtype
 * @returns {Dtype}
 */
export function wide(dtype) {
  return dtype === "float64" ? "float64" : "float32";
}
