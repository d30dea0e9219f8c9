import assert from "node:assert/strict";
import { test } from "node:test";
import * as batch from "../../batchnorm_mechanics/explorer/js/batch-model.js";
import { address, createStore, located } from "../../batchnorm_mechanics/explorer/js/state.js";

const room = { id: "batch", fields: batch.fields, mend: batch.mend };
const other = { id: "other", fields: { number: batch.fields.epsilon } };
const x = (store) => store.state().x;

test("an address restores the whole state", () => {
  const store = createStore([room]);
  store.change({
    x: [
      [1, -2.5, Number.NaN, 1e-30],
      [Number.POSITIVE_INFINITY, 0.1, -0, 3],
    ],
    gamma: [1, 2, 3, 4],
    epsilon: 1e-5,
    variance: [0, 1, 2, 3],
    channel: 3,
    answer: 2,
  });
  const found = located(store.address(), [room]);
  assert.deepEqual(found, { room: "batch", state: store.state(), unread: [] });
});

test("the beginning has a short address", () => {
  assert.equal(createStore([room]).address(), "#batch");
});

test("what an address says wrongly is told, and the rest is read", () => {
  const found = located("#batch?x=1,2;3&epsilon=0&gamma=5,5,5&no=1&variance=-1,1,1", [room]);
  assert.deepEqual(found.unread, ["x", "epsilon", "no", "variance"]);
  assert.deepEqual(found.state.gamma, [5, 5, 5]);
  assert.deepEqual(found.state.x, batch.SOURCE.x);
});

test("no address breaks the page", () => {
  for (const hash of [
    "",
    "#",
    "#nowhere",
    "#batch?",
    "#batch?x",
    "#batch?x=",
    "#batch?x=%E0%A4%A",
    "#batch?__proto__=1",
    "#batch?x=1;2;3&gamma=&channel=9",
    "#batch?toString=1",
    `#batch?x=${"1,".repeat(99)}1`,
    "#batch?answer=7",
  ]) {
    const store = createStore([room]);
    store.follow(hash);
    const state = store.state();
    const channels = state.x[0].length;
    for (const name of ["gamma", "beta", "mean", "variance"])
      assert.equal(state[name].length, channels, hash);
    assert.ok(state.channel < channels);
    batch.computed(state);
  }
});

test("undo and redo go back and forth", () => {
  const store = createStore([room]);
  store.change({ x: [[1]] });
  store.change({ x: [[2]] });
  store.undo();
  assert.deepEqual(x(store), [[1]]);
  store.undo();
  assert.deepEqual(x(store), batch.SOURCE.x);
  assert.deepEqual(store.can(), { undo: false, redo: true });
  store.redo();
  store.redo();
  assert.deepEqual(x(store), [[2]]);
  store.undo();
  store.change({ x: [[3]] });
  assert.deepEqual(store.can(), { undo: true, redo: false });
});

test("a gesture is undone as one, and ends where it is settled", () => {
  const store = createStore([room]);
  for (const value of [1, 2, 3]) store.change({ x: [[value]] }, "typing");
  store.settle();
  store.change({ x: [[4]] }, "typing");
  store.undo();
  assert.deepEqual(x(store), [[3]]);
  store.undo();
  assert.deepEqual(x(store), batch.SOURCE.x);
});

test("what changes nothing is no step", () => {
  const store = createStore([room]);
  store.change({ x: batch.SOURCE.x.map((row) => [...row]) });
  assert.equal(store.can().undo, false);
});

test("each room has an undo of its own", () => {
  const store = createStore([room, other]);
  store.change({ x: [[1]] });
  store.go("other");
  assert.equal(store.can().undo, false);
  assert.equal(store.address(), "#other");
  store.go("batch");
  assert.equal(store.can().undo, true);
});

test("fewer channels take their parameters away, and more bring the first values", () => {
  const store = createStore([room]);
  store.change({ x: [[1], [2]] });
  assert.deepEqual(store.state().gamma, [2]);
  store.change({ x: batch.resized(x(store), { channels: 1 }) });
  assert.deepEqual(store.state().variance, [1, 1]);
  assert.equal(address(room, store.state()).startsWith("#batch?x="), true);
});
