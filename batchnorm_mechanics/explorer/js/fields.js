/** Fields of a room's state: what they begin with, and how an address writes and reads them. */

import { parsed } from "./numbers.js";

/**
 * How a field of a state is written into an address, and read.
 * @template Value
 * @typedef {object} Field
 * @property {Value} initial
 * @property {(value: Value) => string} write
 * @property {(text: string) => Value | undefined} read undefined where the text is none
 */

/** @param {number} value */
function written(value) {
  if (Object.is(value, -0)) return "-0";
  if (Number.isNaN(value)) return "nan";
  return Number.isFinite(value) ? String(value) : value > 0 ? "inf" : "-inf";
}

/**
 * @param {number} initial
 * @param {(value: number) => boolean} [allowed]
 * @returns {Field<number>}
 */
export function number(initial, allowed = () => true) {
  return {
    initial,
    write: written,
    read(text) {
      const value = parsed(text);
      return value !== undefined && allowed(value) ? value : undefined;
    },
  };
}

/**
 * @param {readonly number[]} initial
 * @param {(value: number) => boolean} [allowed]
 * @returns {Field<readonly number[]>}
 */
export function numbers(initial, allowed = () => true) {
  return {
    initial,
    write: (values) => values.map(written).join(","),
    read(text) {
      if (text === "") return [];
      const values = text.split(",").map(parsed);
      return values.every((value) => value !== undefined && allowed(value))
        ? /** @type {number[]} */ (values)
        : undefined;
    },
  };
}

/**
 * @param {readonly (readonly number[])[]} initial
 * @param {{rows: number, columns: number}} most
 * @returns {Field<readonly (readonly number[])[]>}
 */
export function matrix(initial, most) {
  const row = numbers([]);
  return {
    initial,
    write: (rows) => rows.map(row.write).join(";"),
    read(text) {
      const rows = text.split(";").map(row.read);
      const columns = rows[0]?.length ?? 0;
      const whole = rows.filter((each) => each !== undefined && each.length === columns);
      const fits = rows.length <= most.rows && columns >= 1 && columns <= most.columns;
      return fits && whole.length === rows.length
        ? /** @type {(readonly number[])[]} */ (whole)
        : undefined;
    },
  };
}

/**
 * @template {string} Choice
 * @param {Choice} initial
 * @param {readonly Choice[]} choices
 * @returns {Field<Choice>}
 */
export function choice(initial, choices) {
  return {
    initial,
    write: (value) => value,
    read: (text) => choices.find((each) => each === text),
  };
}

/**
 * @param {boolean} initial
 * @returns {Field<boolean>}
 */
export function flag(initial) {
  return {
    initial,
    write: (value) => (value ? "yes" : "no"),
    read: (text) => ({ yes: true, no: false })[text],
  };
}
