/** Numbers as bits in columns: one column for each power of two, the same for all of them. */

import { exponentOf, lastPlace } from "./precision.js";

/** @typedef {import("./precision.js").Format} Format */

/**
 * A number that is written into the columns.
 * @typedef {object} Written
 * @property {string} label
 * @property {number} value
 * @property {Format | null} format of its type; null for float64, which has room for all
 * @property {number} [lostFrom] of the truth: bits of this exponent and below are lost in the type
 */

/**
 * - `one`, `zero`: a bit of the number
 * - `above`: nothing yet: the number begins further down
 * - `none`: the type has no room for it
 * - `lost-one`, `lost-zero`: a bit that the truth has and the type has not
 * @typedef {"one" | "zero" | "above" | "none" | "lost-one" | "lost-zero"} Bit
 */

const MOST_COLUMNS = 56;

/** @param {readonly Written[]} rows */
export function columnsOf(rows) {
  const known = rows.filter(({ value }) => Number.isFinite(value) && value !== 0);
  if (known.length === 0) return null;
  const top = Math.max(...known.map(({ value }) => exponentOf(value)));
  const ends = known.map(({ value, format }) =>
    format === null ? exponentOf(value) - 10 : lastPlace(value, format),
  );
  return { top, bottom: Math.max(Math.min(...ends), top - MOST_COLUMNS + 1) };
}

/**
 * Return a number's bits in the columns, from the highest down.
 * @param {Written} written
 * @param {{top: number, bottom: number}} columns
 * @returns {Bit[]}
 */
export function bitsOf({ value, format, lostFrom = Number.NEGATIVE_INFINITY }, { top, bottom }) {
  const size = Math.abs(value);
  const first = size === 0 ? Number.NEGATIVE_INFINITY : exponentOf(size);
  const last = format === null ? Number.NEGATIVE_INFINITY : lastPlace(value, format);
  return Array.from({ length: top - bottom + 1 }, (_, at) => {
    const exponent = top - at;
    if (exponent < last) return "none";
    if (exponent > first) return "above";
    const one = Math.floor(size / 2 ** exponent) % 2 === 1;
    if (exponent <= lostFrom) return one ? "lost-one" : "lost-zero";
    return one ? "one" : "zero";
  });
}

/**
 * Return how many of a result's leading bits a difference can have: those above the last place of
 * what it was taken from.
 * @param {number} result as it should be
 * @param {number} from the larger of the two
 * @param {Format} format
 */
export function bitsLeft(result, from, format) {
  if (!Number.isFinite(from) || !Number.isFinite(result)) return 0;
  if (result === 0) return format.significant;
  const left = exponentOf(result) - lastPlace(from, format) + 1;
  return Math.min(Math.max(left, 0), format.significant);
}
