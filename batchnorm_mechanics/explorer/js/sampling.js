/**
 * Random numbers that any language gives alike: integers, and sums of them that float64 holds.
 *
 * NumPy's generators are not the browser's, and logarithms differ in the last digit. Hence a small
 * generator, Mulberry32, and for a normal distribution the sum of twelve even ones.
 */

const STEP = 0x6d2b79f5;

/**
 * Return numbers evenly spread from 0 to 1.
 * @param {number} seed
 * @returns {() => number}
 */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + STEP) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Return numbers that are almost normally distributed, of mean 0 and variance 1.
 * @param {number} seed
 * @returns {() => number}
 */
export function normal(seed) {
  const next = uniform(seed);
  return () => {
    let total = 0;
    for (let each = 0; each < 12; each += 1) total += next();
    return total - 6;
  };
}

/** The same in Python; `normal(seed, count)` gives the first numbers. */
export const PYTHON = `def normal(seed, count):
    """Mulberry32, and the sum of twelve: the page's own random numbers."""
    state = (seed + 0x6D2B79F5 * np.arange(1, 12 * count + 1, dtype=np.uint64)).astype(np.uint32)
    mixed = (state ^ (state >> 15)) * (state | 1)
    mixed ^= mixed + (mixed ^ (mixed >> 7)) * (mixed | 61)
    even = (mixed ^ (mixed >> 14)).astype(np.float64) / 2**32
    return even.reshape(count, 12).sum(axis=1) - 6
`;
