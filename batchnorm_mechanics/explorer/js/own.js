/** What Python gives with the page of the user's own model: by the model, and measured of it. */

/**
 * A batch norm layer of the user's model.
 * @typedef {object} OwnLayer
 * @property {string} name its path in the model
 * @property {string} by who computed y: Keras, our layer, or a layer of the user's
 * @property {number} channels how many of them are here
 * @property {number} all how many it has
 * @property {number | null} momentum null where it has none
 * @property {number} epsilon
 * @property {readonly number[]} gamma
 * @property {readonly number[]} beta
 * @property {readonly number[]} mean the moving one
 * @property {readonly number[]} variance the moving one
 * @property {readonly (readonly number[])[]} x some of what it got, a row for each place
 * @property {readonly (readonly number[])[]} y what the layer made of it in inference
 * @property {readonly {count: number, mean: readonly number[], variance: readonly number[]}[]} batches
 *   measured by the doctor, as are the look's statistics; its x̂ is the trace's
 * @property {import("./network-model.js").Look} look
 */

/**
 * The user's own model.
 * @typedef {object} Own
 * @property {string} name of its file
 * @property {string} data name of theirs
 * @property {readonly OwnLayer[]} layers
 * @property {import("./network-model.js").Told} told what the doctor says
 * @property {number} left how many layers are not here
 * @property {{low: number, high: number}} bins of the densities
 * @property {readonly number[]} normal a normal distribution's density
 */

/** @type {WeakMap<object, Own>} */
const known = new WeakMap();

/**
 * Return the user's own model, or undefined.
 * @param {object} data what Python gave with the page
 */
export function ownModel(data) {
  const given = /** @type {{model?: any}} */ (data).model;
  if (given === undefined) return undefined;
  /** @type {Own} */
  const found = known.get(given) ?? { ...given, layers: given.layers.map(revived) };
  known.set(given, found);
  return found;
}

/**
 * JSON has no NaN: null stands for it where there are numbers.
 * @param {any} layer
 * @returns {OwnLayer}
 */
function revived(layer) {
  /** @type {(value: any) => any} */
  const number = (value) => (Array.isArray(value) ? value.map(number) : (value ?? Number.NaN));
  const names = ["gamma", "beta", "mean", "variance", "x", "y"];
  return {
    ...layer,
    ...Object.fromEntries(names.map((name) => [name, number(layer[name])])),
    batches: layer.batches.map((/** @type {any} */ { count, mean, variance }) => ({
      count,
      mean: number(mean),
      variance: number(variance),
    })),
  };
}
