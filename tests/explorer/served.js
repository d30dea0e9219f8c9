/**
 * The explorer's arithmetic for the tests in Python: a line of JSON in, a line out.
 *
 * Arrays come and go as {shape, data}, the data being float64 in base64, so that no digit, NaN or
 * infinity is lost.
 */

import { createInterface } from "node:readline";
import * as algorithm from "../../batchnorm_mechanics/explorer/js/algorithm.js";
import { gradients } from "../../batchnorm_mechanics/explorer/js/gradients.js";
import {
  averageOfBatches,
  debiasedMovingAverage,
  exponentialMovingAverage,
  pooledPopulation,
} from "../../batchnorm_mechanics/explorer/js/policies.js";
import { ROUND } from "../../batchnorm_mechanics/explorer/js/precision.js";

/** Put arrays in the place of what stands for them. */
function unpacked(value) {
  if (Array.isArray(value)) return value.map(unpacked);
  if (value === null || typeof value !== "object") return value;
  if ("data" in value) {
    const bytes = Buffer.from(value.data, "base64");
    const floats = new Float64Array(
      bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length),
    );
    return { shape: value.shape, values: [...floats] };
  }
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpacked(part)]));
}

/** The reverse. */
function packed(value) {
  if (Array.isArray(value)) return value.map(packed);
  if (value === null || typeof value !== "object") return value;
  if ("values" in value) {
    const bytes = Buffer.from(Float64Array.from(value.values).buffer);
    return { shape: value.shape, data: bytes.toString("base64") };
  }
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, packed(part)]));
}

const policies = {
  averageOfBatches,
  debiasedMovingAverage,
  exponentialMovingAverage,
  pooledPopulation,
};

const flat = (parameters) =>
  Object.fromEntries(Object.entries(parameters).map(([name, { values }]) => [name, values]));

const calls = {
  forward: ({ x, parameters, options }) => algorithm.forward(x, flat(parameters), options),
  infer: ({ x, parameters, options }) => algorithm.infer(x, flat(parameters), options),
  gradients: ({ dy, x, parameters, options }) =>
    gradients(dy, algorithm.forward(x, flat(parameters), options)),
  axes: ({ x, axes }) => algorithm.momentsOneAxisAtATime(x, axes),
  round: ({ x, dtype }) => ({ shape: x.shape, values: x.values.map(ROUND[dtype]) }),

  /** Follow a policy from given statistics, or from its own start, and return all states. */
  policy({ name, settings, start, batches }) {
    const { dtype = "float32", ...rest } = settings;
    const policy = policies[name]({ ...rest, round: ROUND[dtype] });
    const channels = batches[0].mean.values.length;
    const states = Array.from({ length: channels }, (_, channel) => {
      let state = policy.init();
      if (start)
        state = {
          ...state,
          mean: start.mean.values[channel],
          variance: start.variance.values[channel],
        };
      return batches.map(({ mean, variance, count }) => {
        state = policy.update(state, {
          mean: mean.values[channel],
          variance: variance.values[channel],
          count,
        });
        return state;
      });
    });
    const gathered = (field) => ({
      shape: [batches.length, channels],
      values: batches.flatMap((_, time) => states.map((channel) => channel[time][field])),
    });
    return { mean: gathered("mean"), variance: gathered("variance") };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { call, ...values } = JSON.parse(line);
  let answer;
  try {
    answer = { result: packed(calls[call](unpacked(values))) };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
