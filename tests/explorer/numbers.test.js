import assert from "node:assert/strict";
import { test } from "node:test";
import * as axes from "../../batchnorm_mechanics/explorer/js/axes-model.js";
import { model } from "../../batchnorm_mechanics/explorer/js/batch-cells.js";
import * as batch from "../../batchnorm_mechanics/explorer/js/batch-model.js";
import { judged, stepped } from "../../batchnorm_mechanics/explorer/js/editing.js";
import { dependents, spoken } from "../../batchnorm_mechanics/explorer/js/formula.js";
import { model as ofGradients } from "../../batchnorm_mechanics/explorer/js/gradients-cells.js";
import * as backward from "../../batchnorm_mechanics/explorer/js/gradients-model.js";
import {
  brief,
  exact,
  joined,
  parsed,
  python,
  shown,
} from "../../batchnorm_mechanics/explorer/js/numbers.js";
import { beginning } from "../../batchnorm_mechanics/explorer/js/state.js";

test("the exact text of a float32 number gives it back", () => {
  for (const value of [0.1, 1 / 3, 16777216, 1e-45, 3.4028235e38, -0.9995557, 123456.79]) {
    const number = Math.fround(value);
    assert.equal(Math.fround(Number(exact(number))), number);
  }
  assert.equal(exact(Math.fround(0.1)), "0.1");
  assert.equal(exact(Math.fround(-0.9995557)), "-0.9995557");
  assert.equal(exact(Number.NaN), "nan");
});

test("numbers are read as people write them, and nothing else is", () => {
  const read = {
    1: 1,
    " −2.5 ": -2.5,
    "+3": 3,
    "1e-3": 1e-3,
    ".5": 0.5,
    "2.": 2,
    inf: Infinity,
    "-Inf": -Infinity,
  };
  for (const [text, value] of Object.entries(read)) assert.equal(parsed(text), value, text);
  assert.ok(Number.isNaN(parsed("NaN")));
  for (const text of ["", "a", "1,5", "0x10", "1 2", "--1", "1e", "e5", "."]) {
    assert.equal(parsed(text), undefined, text);
  }
});

test("cells are short", () => {
  const texts = [
    [0.99978, "0.9998"],
    [-12.99432, "−12.994"],
    [1234.567, "1234.6"],
    [2, "2"],
    [0, "0"],
    [2.3e-8, "2.3e−8"],
    [4e9, "4e9"],
  ];
  for (const [value, text] of texts) assert.equal(brief(value), text);
  assert.equal(shown(1e-10), "1e−10");
  assert.equal(joined(["1", "2", "3", "4", "5", "6", "7"]), "1 + 2 + 3 + … 3 more … + 7");
  assert.equal(
    python([
      [1, Number.NaN],
      [-Infinity, 0.5],
    ]),
    "[[1, np.nan], [-np.inf, 0.5]]",
  );
});

test("why a text is not taken is said", () => {
  assert.deepEqual(
    judged("2", () => null),
    { value: 2 },
  );
  assert.match(judged("", () => null).why, /Nothing/);
  assert.match(judged("two", () => null).why, /“two” is not a number/);
  assert.match(judged("1e39", () => null).why, /float32/);
  assert.match(judged("0", batch.refuseEpsilon).why, /divided by 0/);
  assert.match(judged("-1", batch.refuseVariance).why, /squares/);
});

test("steps leave no digits behind", () => {
  assert.equal(stepped(0.1, 1), 0.15);
  assert.equal(stepped(1.05, -1), 1);
  assert.equal(stepped(40, 2), 41);
});

const state = beginning({ id: "batch", fields: batch.fields });
const cells = model(state, batch.computed(state));

test("a sample reaches the others of its channel in training, and itself alone in inference", () => {
  const all = [];
  for (const mode of ["training", "inference"]) {
    for (const step of ["mean", "deviation", "variance", "xHat", "y"]) {
      for (const row of [0, 1])
        for (const column of [0, 1, 2]) all.push(`${mode}-${step}.${row}.${column}`);
    }
  }
  const reached = dependents("x.0.1", all, cells.from);
  const outputs = [...reached].filter((cell) => cell.includes("-y.")).sort();
  assert.deepEqual(outputs, ["inference-y.0.1", "training-y.0.1", "training-y.1.1"]);
});

test("a formula has the numbers put in", () => {
  const { formula, numbers, result } = cells.explain("training-xHat.0.2");
  assert.equal(formula, "x̂ = (x − μ) / √(σ² + ε)");
  assert.equal(numbers, "(−1.5) / √(2.25 + 0.001)");
  assert.equal(result, "-0.99977785");
});

test("screen readers hear a formula in words", () => {
  assert.equal(spoken("y = γ · x̂ + β"), "y = gamma times x hat + beta");
});

test("what is odd about a batch is said", () => {
  const told = (x) => batch.remarks({ ...state, x }).join(" ");
  assert.equal(
    told([
      [1, 2],
      [3, 4],
    ]),
    "",
  );
  assert.match(told([[1, 2]]), /batch of one/);
  assert.match(
    told([
      [1, 2],
      [1, 3],
    ]),
    /Channel 1 is the same/,
  );
  assert.match(
    told([
      [1, Number.NaN],
      [1, 3],
    ]),
    /Channel 2 holds a value that is not finite/,
  );
});

test("the ways of a gradient add up to it, and its sums vanish but for what epsilon leaves", () => {
  const start = beginning({ id: "gradients", fields: backward.fields });
  const values = backward.computed(start);
  const { direct, variance, mean } = values.ways;
  values.dX.forEach((row, sample) => {
    row.forEach((dx, channel) => {
      const sum = direct[sample][channel] + variance[sample][channel] + mean[sample][channel];
      assert.ok(Math.abs(sum - dx) < 1e-6);
    });
  });
  for (const channel of [0, 1]) {
    const { plain, byXHat } = backward.balances({ ...start, channel }, values);
    assert.ok(plain.vanishes && byXHat.vanishes);
    for (const { parts, total } of [plain, byXHat]) {
      const sum = parts.reduce((before, { value }) => before + value, 0);
      assert.ok(Math.abs(sum - total) < 1e-6);
    }
  }
});

test("a way that is switched off breaks its own sum", () => {
  const start = beginning({ id: "gradients", fields: backward.fields });
  const broken = (part) => {
    const state = { ...start, ...part };
    const { plain, byXHat } = backward.balances(state, backward.computed(state));
    return [plain.vanishes, byXHat.vanishes];
  };
  assert.deepEqual(broken({ throughMean: false }), [false, true]);
  assert.deepEqual(broken({ throughVariance: false }), [true, false]);
});

test("the axes of the notebooks' example add up as they do in the notebooks", () => {
  const parts = (reduced) => {
    const state = axes.mend({ ...beginning({ id: "axes", fields: axes.fields }), axes: reduced });
    return axes.computed(state).steps.map((step) => step.varianceOfMeans);
  };
  assert.deepEqual(parts([0, 2]), [36, Math.fround(8 / 3)]);
  assert.deepEqual(parts([0, 1, 2]), [36, 9, Math.fround(8 / 3)]);
});

test("every cell of every room can be asked, and comes from cells that there are", () => {
  const rooms = [
    [batch, model],
    [backward, ofGradients],
    [axes, axes.model],
  ];
  for (const [room, cellsOf] of rooms) {
    const begun = beginning({ id: "", fields: room.fields });
    const { explain, from } = cellsOf(begun, room.computed(begun));
    for (const start of [
      "training-y.1.2",
      "inference-y.0.0",
      "dX.3.1",
      "dMean.0.1",
      "dGamma.0.0",
      "groups.1.2",
      "steps.2.2",
    ]) {
      if (explain(start) === undefined) continue;
      const waiting = [start];
      for (let cell = waiting.pop(); cell !== undefined; cell = waiting.pop()) {
        const about = explain(cell);
        assert.ok(about?.title && about.result !== undefined, cell);
        assert.doesNotMatch(`${about.numbers ?? ""}${about.result}`, /NaN|undefined/);
        waiting.push(...from(cell));
      }
    }
  }
});
