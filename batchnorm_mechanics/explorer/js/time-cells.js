/** What room 4 says of each of its numbers: how it was computed, and from which others. */

import { exact, shown, term } from "./numbers.js";
import { madeOf, POLICIES, trusted } from "./time-model.js";

/** @typedef {import("./formula.js").Explanation} Explanation */
/** @typedef {import("./time-model.js").State} State */
/** @typedef {import("./time-model.js").Followed} Followed */

/** Of the averages that count samples. */
const COUNTED = {
  average: {
    mean: "(n · before + m · batch) / (n + m)",
    variance: "(f · before + m · batch) / (f + m − 1)",
  },
  pooled: {
    mean: "before + (batch − before) · m / (n + m)",
    variance: "(1 − s) · before + s · batch + (Δμ)² · s · (1 − s)",
  },
};

/** @param {number} share */
export function percent(share) {
  const size = 100 * share;
  return `${size >= 99.95 || size < 0.05 ? Math.round(size) : size.toFixed(1)} %`;
}

/**
 * @param {State} state
 * @param {Followed} found
 * @returns {import("./formula.js").Model}
 */
export function model(state, found) {
  const { at } = state;
  /** @param {string} cell */
  const read = (cell) => {
    const [name, row, column] = cell.split(".");
    return { name, row: Number(row), column: Number(column) };
  };
  return {
    from(cell) {
      const { name, row, column } = read(cell);
      if (name !== "read" || at === 0) return [];
      const of = row < 3 ? ["momentum.0.0"] : ["batch.0.0"];
      if (column > 1) return row < 3 ? of : [];
      const pooled = row === 4 && column === 1 ? ["batch.0.1"] : [];
      return [`batch.0.${column + 1}`, ...pooled, ...of];
    },
    explain(cell) {
      const { name, row, column } = read(cell);
      const batch = found.batches[at - 1];
      const what = /** @type {const} */ (["mean", "variance"])[column];
      switch (name) {
        case "read":
          return column > 1 ? aboutTrust(row, column) : aboutReading(row, what);
        case "batch":
          return batch && aboutBatch(batch, column);
        case "momentum":
          return {
            title: "Momentum, the weight of the old value",
            result: exact(state.momentum),
            note: "PyTorch’s momentum is the weight of the new one: 0.01 there is 0.99 here.",
          };
        case "before":
        case "after": {
          const value = state.source[name === "before" ? 0 : 1][column];
          const one = column === 0 ? "Mean" : "Standard deviation";
          return { title: `${one} of what comes ${name} the jump`, result: exact(value) };
        }
        case "sizes":
          return {
            title: `Samples in a batch, ${column + 1} in turn`,
            result: `${state.sizes[column]}`,
          };
        default:
          return undefined;
      }
    },
  };

  /**
   * @param {number} row
   * @param {"mean" | "variance"} what
   * @returns {Explanation}
   */
  function aboutReading(row, what) {
    const { name, line, decay } = POLICIES[row];
    const title = `${name}: ${what} after ${at} batches`;
    const result = exact(found.paths[row][at][what]);
    if (at === 0) {
      return { title, result, note: "Nothing has come yet: this is what a new layer begins with." };
    }
    const [old, batch] = [found.paths[row][at - 1][what], found.batches[at - 1]];
    const keep = decay(state.momentum);
    if (line === "average" || line === "pooled") {
      const seen = found.batches.slice(0, at - 1).reduce((sum, each) => sum + each.count, 0);
      return {
        title,
        formula: COUNTED[line][what],
        numbers: `before ${shown(old)}, batch ${shown(batch[what])}, n ${seen}, m ${batch.count}`,
        result,
        note:
          line === "average"
            ? "Batches weigh what they know: the mean by samples, the unbiased variance by samples less one, of which there were f. What varies between batches is not in it."
            : "As if all samples had come in one batch, with s = m / (n + m) and Δμ the distance of the means: what varies between batches is in it.",
      };
    }
    if (keep === null || line === "debiased") {
      const weight = 1 - state.momentum;
      const share = weight / (1 - state.momentum ** at);
      return {
        title,
        formula: "(1 − s) · before + s · batch, s = (1 − momentum) / (1 − momentumⁿ)",
        numbers: `${shown(1 - share)} · ${term(old)} + ${shown(share)} · ${term(batch[what])}`,
        result,
        note: "The first batch replaces the start at once; later it is Keras’s average.",
      };
    }
    return {
      title,
      formula: "keep · before + (1 − keep) · batch",
      numbers: `${shown(keep)} · ${term(old)} + ${shown(1 - keep)} · ${term(batch[what])}`,
      result,
      note: `${percent(madeOf(row, state, found).start)} of it is still the start, ${what === "mean" ? 0 : 1}: ${shown(keep)} to the power of ${at}.`,
    };
  }

  /**
   * @param {number} row
   * @param {number} column
   * @returns {Explanation}
   */
  function aboutTrust(row, column) {
    const { name, decay } = POLICIES[row];
    const { from, again } = trusted(row, state, found);
    const [time, what] = column === 2 ? [from, "its start"] : [again, "what came before the jump"];
    const keep = decay(state.momentum);
    const counted =
      keep === null
        ? "It counts samples: as many must come as there were."
        : "A share of 1 − momentum goes with each batch.";
    return {
      title: `${name}: from which batch on half of ${what} is gone`,
      result: Number.isFinite(time) ? `batch ${time}` : "not within these batches",
      note: column === 2 && row > 1 ? "The first batch takes the place of the start." : counted,
    };
  }

  /**
   * @param {import("./algorithm.js").Moments} batch
   * @param {number} column
   * @returns {Explanation}
   */
  function aboutBatch(batch, column) {
    const title = `Batch ${at}: ${["samples", "mean", "biased variance"][column]}`;
    const result = exact([batch.count, batch.mean, batch.variance][column]);
    const formula = [undefined, "Σ x / m", "Σ (x − μ)² / m"][column];
    return { title, result, ...(formula && { formula, numbers: `${batch.count} samples` }) };
  }
}
