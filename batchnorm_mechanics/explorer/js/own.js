/** What Python gives with the page of the user's own model, all of it computed by Keras. */

/**
 * A batch norm layer of the user's model.
 * @typedef {object} OwnLayer
 * @property {string} name its path in the model
 * @property {number} channels how many of them are here
 * @property {number} momentum
 * @property {number} epsilon
 * @property {readonly number[]} gamma
 * @property {readonly number[]} beta
 * @property {readonly number[]} mean the moving one
 * @property {readonly number[]} variance the moving one
 * @property {readonly (readonly number[])[]} x some of what it got, a row for each place
 * @property {readonly (readonly number[])[]} y what Keras made of it in inference
 * @property {readonly {count: number, mean: readonly number[], variance: readonly number[]}[]} batches
 * @property {import("./network-model.js").Look} look
 */

/**
 * The user's own model.
 * @typedef {object} Own
 * @property {string} name of its file
 * @property {string} data name of theirs
 * @property {string} keras version
 * @property {readonly OwnLayer[]} layers
 * @property {import("./network-model.js").Told} told what the doctor says
 * @property {number} left how many layers are not here
 * @property {{low: number, high: number}} bins of the densities
 * @property {readonly number[]} normal a normal distribution's density
 */

/**
 * Return the user's own model, or undefined.
 * @param {object} data what Python gave with the page
 */
export function ownModel(data) {
  return /** @type {{model?: Own}} */ (data).model;
}
