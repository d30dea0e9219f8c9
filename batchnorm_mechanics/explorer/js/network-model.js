/** @typedef {{}} Told */
export {};
