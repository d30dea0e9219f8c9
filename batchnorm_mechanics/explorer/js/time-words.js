/** What room 4 says of the batches that come, and the Python that prints its numbers. */

import { python } from "./numbers.js";
import { PYTHON } from "./sampling.js";
import { POLICIES } from "./time-model.js";

/** @typedef {import("./time-model.js").State} State */
/** @typedef {import("./own.js").OwnLayer} OwnLayer */

/**
 * @param {State} state
 * @param {OwnLayer} [layer]
 */
export function remarks(state, layer) {
  const found = [];
  if (layer === undefined && state.sizes.includes(1)) {
    found.push(
      state.sizes.every((size) => size === 1)
        ? "Every batch is one sample, whose variance is 0. The averages that begin with each batch’s variance learn that nothing varies; Algorithm 2 learns nothing of it and keeps its 1; pooling alone is right."
        : "A batch of one sample has variance 0. Keras’s averages take it in like any other; Algorithm 2 leaves it out, since n − 1 is 0.",
    );
  }
  if (state.momentum === 0) {
    found.push(
      "With momentum 0 nothing is kept: only the last batch counts. Its reverse keeps the start for ever.",
    );
  }
  if (layer === undefined && state.source.some(([, spread]) => spread === 0)) {
    found.push("With standard deviation 0 all samples are alike, and every batch’s variance is 0.");
  }
  return found;
}

/**
 * Return Python that prints the numbers on the page.
 * @param {State} state
 * @param {OwnLayer} [layer]
 */
export function code(state, layer) {
  const { source, sizes, momentum, batches, jump, at, seed } = state;
  const given =
    layer === undefined
      ? `${PYTHON}
sizes = [${sizes.join(", ")}]
counts = [sizes[at % len(sizes)] for at in range(${batches})]
draws = np.split(normal(${seed}, sum(counts)), np.cumsum(counts)[:-1])
batches = []
for at, draw in enumerate(draws):
    mean, spread = ${python(source[0])} if at < ${jump} else ${python(source[1])}
    x = (mean + spread * draw).astype("float32")
    batches.append(bnm.moments(x[:, None], axes=[0]))`
      : `# What the layer ${JSON.stringify(layer.name)} got, channel ${state.channel}, as bnm doctor measured
# it: count, mean, variance.
given = ${python(
          layer.batches.map(({ count, mean, variance }) => [
            count,
            mean[state.channel],
            variance[state.channel],
          ]),
        )}
batches = [([mean], [variance], count) for count, mean, variance in given]`;
  return `import numpy as np
import batchnorm_mechanics as bnm

${given}

momentum = ${python(momentum)}
policies = {
${POLICIES.map(({ line, python: made }) => `    "${line}": ${made},`).join("\n")}
}
for name, policy in policies.items():
    state = policy.init([1])
    for mean, variance, count in batches[:${at}]:
        state = policy.update(state, mean, variance, count)
    mean, variance = policy.read(state)
    print(name, "mean", mean.numpy().tolist(), "variance", variance.numpy().tolist())
`;
}
