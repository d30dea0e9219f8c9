import assert from "node:assert/strict";
import { test } from "node:test";
import { bitsLeft, bitsOf, columnsOf } from "../../batchnorm_mechanics/explorer/js/bits-model.js";
import {
  fromZero,
  linear,
  logarithmic,
  rangeOf,
} from "../../batchnorm_mechanics/explorer/js/chart.js";
import { ownModel } from "../../batchnorm_mechanics/explorer/js/own.js";
import { FORMAT, lastPlace } from "../../batchnorm_mechanics/explorer/js/precision.js";
import { normal, uniform } from "../../batchnorm_mechanics/explorer/js/sampling.js";

test("an axis leads from values to places and back", () => {
  for (const scale of [linear(-3, 7), logarithmic(-8, 2, 2), fromZero(1832)]) {
    for (const share of [0, 0.25, 0.5, 1]) {
      assert.ok(Math.abs(scale.share(scale.value(share)) - share) < 1e-12);
    }
  }
});

test("an axis names round numbers within it", () => {
  assert.deepEqual(linear(-3, 7).ticks, [0, 5]);
  assert.deepEqual(linear(0, 200).ticks, [0, 50, 100, 150, 200]);
  assert.deepEqual(linear(0.11, 0.29).ticks, [0.15, 0.2, 0.25]);
  assert.deepEqual(logarithmic(-8, 2, 2).ticks, [100, 1, 0.01, 1e-4, 1e-6, 1e-8]);
  assert.deepEqual(fromZero(1832).ticks, [0, 1, 10, 100, 1000]);
});

test("a range has room, and is there without numbers too", () => {
  const { low, high } = rangeOf([1, 3, Number.NaN, Number.POSITIVE_INFINITY]);
  assert.ok(low < 1 && high > 3 && high < 4);
  assert.deepEqual(rangeOf([]), { low: 0, high: 1 });
  assert.deepEqual(rangeOf([2, 2]), { low: 1.5, high: 2.5 });
});

test("the generator is Mulberry32", () => {
  const next = uniform(1);
  // Of the reference implementation, seed 1.
  assert.deepEqual(
    [next(), next(), next()].map((value) => value * 2 ** 32),
    [2693262067, 11749833, 2265367787],
  );
});

test("sums of twelve are almost normal", () => {
  const next = normal(5);
  const values = Array.from({ length: 20000 }, next);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  assert.ok(Math.abs(mean) < 0.03 && Math.abs(variance - 1) < 0.03);
  assert.ok(Math.abs(values.filter((value) => Math.abs(value) < 1).length / 20000 - 0.683) < 0.02);
});

test("bits stand in the columns of their powers", () => {
  const rows = [
    { label: "a", value: 5, format: FORMAT.float16 },
    { label: "b", value: 0.375, format: null, lostFrom: -3 },
  ];
  const columns = { top: 2, bottom: -4 };
  assert.deepEqual(bitsOf(rows[0], columns), ["one", "zero", "one", ...Array(4).fill("zero")]);
  assert.deepEqual(bitsOf(rows[1], columns), [
    "above",
    "above",
    "above",
    "above",
    "one",
    "lost-one",
    "lost-zero",
  ]);
  assert.equal(columnsOf(rows).top, 2);
  assert.equal(columnsOf([{ label: "", value: Number.NaN, format: null }]), null);
});

test("a type ends where it does", () => {
  assert.equal(2 ** lastPlace(0, FORMAT.float16), 2 ** -24);
  assert.equal(2 ** lastPlace(1, FORMAT.float16), 2 ** -10);
  assert.equal(2 ** lastPlace(1, FORMAT.bfloat16), 2 ** -7);
  assert.deepEqual(bitsOf({ value: 1.5, format: FORMAT.bfloat16 }, { top: 0, bottom: -9 }), [
    "one",
    "one",
    ...Array(6).fill("zero"),
    "none",
    "none",
  ]);
});

test("what is left of a difference is what its terms have room for", () => {
  assert.equal(bitsLeft(1, 2 ** 23, FORMAT.float32), 1);
  assert.equal(bitsLeft(1, 2 ** 24, FORMAT.float32), 0);
  assert.equal(bitsLeft(1, 1, FORMAT.float32), 24);
  assert.equal(bitsLeft(1, Number.POSITIVE_INFINITY, FORMAT.float32), 0);
});

test("null stands for what is no number in a model of one's own", () => {
  const layer = {
    name: "bn",
    mean: [1, null],
    x: [[null, 2]],
    batches: [{ count: 2, mean: [null], variance: [1] }],
  };
  for (const name of ["gamma", "beta", "variance", "y"]) layer[name] = [];
  const data = { model: { name: "m", layers: [layer] } };
  const own = ownModel(data);
  assert.deepEqual(own.layers[0].mean, [1, Number.NaN]);
  assert.deepEqual(own.layers[0].x, [[Number.NaN, 2]]);
  assert.deepEqual(own.layers[0].batches[0].mean, [Number.NaN]);
  assert.equal(ownModel(data), own);
  assert.equal(ownModel({}), undefined);
});
