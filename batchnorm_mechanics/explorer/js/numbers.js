/** Numbers as people write and read them. */

const MINUS = "\u2212";

/**
 * Return the fewest digits that name a float32 number, as NumPy prints it.
 * @param {number} value
 */
export function exact(value) {
  if (!Number.isFinite(value)) return special(value);
  if (Math.fround(value) !== value) return String(value);
  for (let digits = 1; digits < 9; digits += 1) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(Number(value.toPrecision(9)));
}

/**
 * Return a number's exact text with a true minus sign, as an input shows it.
 * @param {number} value
 */
export function written(value) {
  return exact(value).replaceAll("-", MINUS);
}

/** @param {number} value */
function special(value) {
  if (Number.isNaN(value)) return "nan";
  return value > 0 ? "inf" : "-inf";
}

/**
 * Return a number for reading, with a true minus sign.
 * @param {number} value
 * @param {number} [digits] significant ones
 */
export function shown(value, digits = 5) {
  if (!Number.isFinite(value)) return special(value).replace("-", MINUS);
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text =
    size >= 10 ** Math.max(digits, 6) || size < 1e-4
      ? value
          .toExponential(Math.max(digits - 3, 1))
          .replace(/\.?0+e/, "e")
          .replace("e+", "e")
      : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", MINUS);
}

/**
 * Return a number for a cell: four decimals, fewer where it is large.
 * @param {number} value
 */
export function brief(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value) || size >= 1e6 || (size < 1e-3 && value !== 0)) {
    return shown(value, 4);
  }
  const decimals = Math.max(4 - Math.max(Math.floor(Math.log10(size || 1)), 0), 0);
  return shown(Number(value.toFixed(decimals)), 9);
}

/**
 * Return a number within a formula: in brackets where its sign would meet an operator.
 * @param {number} value
 * @param {number} [digits]
 */
export function term(value, digits = 5) {
  const text = shown(value, digits);
  return text.startsWith(MINUS) ? `(${text})` : text;
}

/**
 * Return the number that a text means, or undefined.
 * @param {string} text
 */
export function parsed(text) {
  const plain = text.trim().replaceAll(MINUS, "-").replace(/^\+/, "").toLowerCase();
  if (/^-?inf(inity)?$/.test(plain)) return plain.startsWith("-") ? -Infinity : Infinity;
  if (plain === "nan") return Number.NaN;
  return /^-?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/.test(plain) ? Number(plain) : undefined;
}

/**
 * Return a sum's terms, with the middle left out where there are many.
 * @param {readonly string[]} terms
 * @param {string} [between]
 */
export function joined(terms, between = " + ") {
  if (terms.length <= 6) return terms.join(between);
  const left = terms.length - 4;
  return [...terms.slice(0, 3), `… ${left} more …`, terms[terms.length - 1]].join(between);
}

/**
 * Return numbers as a literal of Python.
 * @param {number | readonly number[] | readonly (readonly number[])[]} value
 * @returns {string}
 */
export function python(value) {
  if (typeof value !== "number") return `[${value.map((part) => python(part)).join(", ")}]`;
  if (Number.isNaN(value)) return "np.nan";
  if (!Number.isFinite(value)) return value > 0 ? "np.inf" : "-np.inf";
  return String(value);
}
