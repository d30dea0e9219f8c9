/** Room 6 without a page: the run that is stored with it, and what is looked at of it. */

import { choice, number } from "./fields.js";

/**
 * What is seen of a layer.
 * @typedef {object} Look
 * @property {readonly number[]} density of a thousand values, how many lie in each bin
 * @property {readonly (number | null)[]} [shift] of each channel's moving mean, in spreads
 * @property {readonly (number | null)[]} [ratio] how many times as wide its moving spread is
 */

/**
 * @typedef {object} Group findings of the doctor with one cause
 * @property {string} code
 * @property {string} name
 * @property {"error" | "warning" | "note"} severity
 * @property {string} where
 * @property {string} why
 * @property {string} seen
 * @property {string} do
 * @property {readonly string[]} so what follows from it
 */

/** @typedef {{title: string, verdict: string, is_sick: boolean, groups: readonly Group[]}} Told */
/** @typedef {{inference: number, training?: number, layers: readonly Look[]}} Seen */

/**
 * @typedef {object} Failure
 * @property {string} name
 * @property {{accuracy: number, layers: readonly Look[], told: Told, text: string}} broken
 * @property {{accuracy: number, layers: readonly Look[], told: Told}} repaired
 * @property {string} repair what `bnm repair` printed
 * @property {readonly string[]} steps
 * @property {readonly string[]} only
 */

/**
 * @typedef {object} Run
 * @property {string} keras version
 * @property {number} images trained on
 * @property {number} tested
 * @property {number} asked one at a time
 * @property {{low: number, high: number}} bins
 * @property {readonly number[]} steps
 * @property {{with: readonly Seen[], without: readonly Seen[]}} training
 * @property {{accuracy: number, densities: readonly (readonly number[])[]}} whole
 * @property {readonly Failure[]} failures
 */

/** @typedef {"broken" | "repaired"} Stage */

/**
 * @typedef {object} State
 * @property {number} at which of the steps that were looked at
 * @property {string} failure
 * @property {Stage} stage
 */

/** What happens to the network, by the name in the run. */
export const FAILURES = /** @type {const} */ ([
  {
    name: "nan",
    title: "One NaN channel",
    story:
      "One bad batch went through, and one channel’s moving mean in the second layer is NaN. A " +
      "moving average never forgets it.",
  },
  {
    name: "reversed",
    title: "Momentum reversed",
    story:
      "The momentum was taken over from a library that means the weight of the new value: 0.01, " +
      "where Keras wants 0.99. Training goes as before; what is kept for inference is little " +
      "more than the last batch of 60 images.",
  },
  {
    name: "never",
    title: "Statistics never updated",
    story:
      "A training loop of one’s own forgot to update the moving statistics: they still are the 0 " +
      "and 1 of a new layer. Training does not notice, and here the inputs are scaled so well " +
      "that inference hardly does.",
  },
  {
    name: "baked",
    title: "Flag baked in",
    story:
      "Two layers were called with training=True while the graph was built. Asked for one image " +
      "at a time, they normalize it by itself: all that makes it that image is gone.",
  },
  {
    name: "domain",
    title: "Another domain",
    story:
      "The same digits, photographed: half the contrast, on a grey ground. The statistics are " +
      "those of the digits that it was trained on.",
  },
]);
export const STAGES = /** @type {const} */ (["broken", "repaired"]);

export const fields = {
  at: number(5, (value) => Number.isInteger(value) && value >= 0 && value < 1000),
  failure: choice(
    /** @type {string} */ ("nan"),
    FAILURES.map(({ name }) => name),
  ),
  stage: choice(/** @type {Stage} */ ("broken"), STAGES),
};

/**
 * Return the run that came with the page, or undefined.
 * @param {object} data
 */
export function runOf(data) {
  return /** @type {{network?: Run}} */ (data).network;
}

/**
 * Return the state with a step that the run has.
 * @param {State} state
 * @param {Run} run
 * @returns {State}
 */
export function within(state, run) {
  return { ...state, at: Math.min(state.at, run.steps.length - 1) };
}

/**
 * @param {State} state
 * @param {Run} run
 */
export function failureOf(state, run) {
  return run.failures.find(({ name }) => name === state.failure) ?? run.failures[0];
}

/** @param {Failure} failure */
export function about({ name }) {
  return FAILURES.find((each) => each.name === name) ?? FAILURES[0];
}

/**
 * Say what there is to see at a step.
 * @param {State} state
 * @param {Run} run
 */
export function sentence({ at }, { steps, training }) {
  const [own, other] = [training.with[at], training.without[at]];
  const step = steps[at];
  const when = step === 0 ? "Before training" : `After ${step} ${step === 1 ? "step" : "steps"}`;
  const gap = (own.training ?? 0) - own.inference;
  const lag =
    gap > 1
      ? `: ${gap.toFixed(1)} points that the moving statistics, not yet those of the batches, cost`
      : "";
  return (
    `${when} the network with batch norm classifies ${percent(own.training)} by the batch and ` +
    `${percent(own.inference)} in inference${lag}. Without batch norm it is ${percent(other.inference)}.`
  );
}

/** @param {number | undefined} value */
export function percent(value) {
  return value === undefined ? "unknown" : `${value.toFixed(1)} %`;
}

/**
 * What the formula panel says.
 * @param {State} state
 * @param {Run} run
 * @returns {import("./formula.js").Model}
 */
export function model(state, run) {
  const { keras, tested, asked, steps, training, whole } = run;
  const failure = failureOf(state, run);
  return {
    from: () => [],
    explain(cell) {
      const [name, , column] = cell.split(".");
      const at = Number(column);
      if (name === "now") {
        const own = training.with[state.at];
        const values = [own.training, own.inference, training.without[state.at].inference];
        const titles = [
          "With batch norm, by the batch’s own statistics, 60 images at a time",
          "With batch norm, by the moving statistics, as in inference",
          "Without batch norm",
        ];
        return {
          title: titles[at],
          result: percent(values[at]),
          note:
            `Of ${tested} test images, after ${steps[state.at]} steps. Computed by Keras ${keras}` +
            `${at === 0 ? ", but for batch norm, which bnm doctor computed by the batch" : ""}.`,
        };
      }
      if (name === "asked") {
        const values = [whole.accuracy, failure.broken.accuracy, failure.repaired.accuracy];
        return {
          title: ["As it was trained", about(failure).title, "After bnm repair"][at],
          result: percent(values[at]),
          note: `Of ${asked} test images, asked for one at a time. Computed by Keras ${keras}.`,
        };
      }
      return undefined;
    },
  };
}

/**
 * Return Python that prints the numbers on the page.
 * @param {State} state
 * @param {object} data
 */
export function code(state, data) {
  const run = runOf(data);
  if (run === undefined) return "# No run of the network came with this page.\n";
  const { at } = within(state, run);
  return `from batchnorm_mechanics.explorer.network import stored_run

# Measured by \`python -m batchnorm_mechanics.explorer.recorded\`.
run = stored_run()
at = ${at}
print("step", [run["steps"][at]])
print("by the batch", [run["training"]["with"][at]["training"]])
print("inference", [run["training"]["with"][at]["inference"]])
print("without batch norm", [run["training"]["without"][at]["inference"]])

failure = next(one for one in run["failures"] if one["name"] == ${JSON.stringify(failureOf(state, run).name)})
print("trained", [run["whole"]["accuracy"]])
print("broken", [failure["broken"]["accuracy"]])
print("repaired", [failure["repaired"]["accuracy"]])
print(failure["broken"]["text"])
print(failure["repair"])
`;
}
