/** Two small pictures, and what statistics of the right and of a wrong axis make of them. */

import { forward } from "./algorithm.js";
import { h } from "./dom.js";
import { shown } from "./numbers.js";
import { tensor } from "./tensor.js";

const [HEIGHT, WIDTH, CHANNELS] = [18, 24, 3];

/**
 * Return a landscape's colour at a place, each channel from 0 to 1.
 * @param {boolean} day or evening
 * @param {number} row
 * @param {number} column
 */
function landscape(day, row, column) {
  const [sunRow, sunColumn] = day ? [4, 17] : [9, 7];
  const horizon = 11 + Math.round(1.4 * Math.sin(column / 3.5));
  if (row < horizon) {
    if (Math.hypot(row - sunRow, column - sunColumn) < 2.6) {
      return day ? [1, 0.95, 0.6] : [0.98, 0.5, 0.25];
    }
    const up = row / horizon;
    return day ? [0.45 + 0.3 * up, 0.7 + 0.15 * up, 0.97] : [0.35 + 0.45 * up, 0.2 + 0.2 * up, 0.4];
  }
  const ridge = (row + column) % 5 === 0 ? 0.07 : 0;
  return day ? [0.2 + ridge, 0.42 + ridge, 0.14] : [0.1 + ridge, 0.13 + ridge, 0.12];
}

const PICTURES = tensor(
  [2, HEIGHT, WIDTH, CHANNELS],
  [true, false].flatMap((day) =>
    Array.from({ length: HEIGHT * WIDTH }, (_, at) =>
      landscape(day, Math.floor(at / WIDTH), at % WIDTH),
    ).flat(),
  ),
);

/** @param {readonly number[]} axes */
function normalized(axes) {
  const kept = PICTURES.shape.filter((_, axis) => !axes.includes(axis));
  const channels = kept.reduce((product, size) => product * size, 1);
  const parameters = { gamma: Array(channels).fill(1), beta: Array(channels).fill(0) };
  return forward(PICTURES, parameters, { axes, epsilon: 1e-3 }).y.values;
}

/**
 * Return the average of a row of pixels in both pictures.
 * @param {readonly number[]} values
 * @param {number} row
 */
function rowMean(values, row) {
  const size = WIDTH * CHANNELS;
  const own = [row, HEIGHT + row].flatMap((at) => values.slice(at * size, (at + 1) * size));
  const mean = own.reduce((total, value) => total + value, 0) / own.length;
  return Math.abs(mean) < 1e-6 ? 0 : mean;
}

/**
 * @param {readonly number[]} values
 * @param {number} picture
 * @param {(value: number) => number} brightness from 0 to 1
 */
function drawn(values, picture, brightness) {
  const canvas = h("canvas", { width: WIDTH, height: HEIGHT });
  const context = canvas.getContext("2d");
  if (context === null) return canvas;
  const image = context.createImageData(WIDTH, HEIGHT);
  const size = HEIGHT * WIDTH;
  for (let at = 0; at < size; at += 1) {
    for (let channel = 0; channel < CHANNELS; channel += 1) {
      const value = values[(picture * size + at) * CHANNELS + channel];
      image.data[at * 4 + channel] = 255 * Math.min(Math.max(brightness(value), 0), 1);
    }
    image.data[at * 4 + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Return the pictures as they are, by channels, and by rows of pixels. */
export function createPictures() {
  const spread = (/** @type {number} */ value) => 0.5 + value / 4.5;
  /** @type {readonly [string, string, readonly number[], (value: number) => number][]} */
  const kinds = [
    ["As they are", "0 is black, 1 is white", PICTURES.values, (value) => value],
    ["axis=-1, right", "each colour has its mean", normalized([0, 1, 2]), spread],
    ["axis=1, wrong here", "each row of pixels has its mean", normalized([0, 2, 3]), spread],
  ];
  const figures = kinds.map(([title, what, values, brightness]) => {
    const [top, bottom] = [rowMean(values, 0), rowMean(values, HEIGHT - 1)];
    const means = `On average: top row ${shown(top, 2)}, bottom row ${shown(bottom, 2)}.`;
    const pictures = h(
      "div",
      { class: "pair", role: "img", "aria-label": `Two landscapes. ${title}: ${what} ${means}` },
      drawn(values, 0, brightness),
      drawn(values, 1, brightness),
    );
    const caption = h("figcaption", {}, title, h("span", {}, what));
    return h("figure", { class: "pictures" }, caption, pictures, h("p", { class: "hint" }, means));
  });
  return h("div", { class: "fans" }, ...figures);
}
