/** Training and inference of one channel as two fans, moved together. */

import { h, say } from "./dom.js";
import { createFan, rangeOf } from "./fan.js";
import { shown } from "./numbers.js";
import { chooser, named } from "./room.js";

/** @typedef {import("./batch-model.js").State} State */
/** @typedef {import("./batch-model.js").Computed} Computed */

/**
 * @param {State} begun
 * @param {(sample: number, value: number, gesture: string) => void} edit
 * @param {import("./room.js").RoomContext} context
 */
export function createFans(begun, edit, context) {
  let held = false;
  /** @type {{x: import("./fan.js").Range, y: import("./fan.js").Range}[] | undefined} */
  let scales;
  let channel = begun.channel;

  const fanOf = (/** @type {string} */ title, /** @type {string} */ mean) =>
    createFan({
      title,
      mean,
      edit,
      begin() {
        if (held) return;
        held = true;
        for (const fan of fans) fan.remember();
      },
      settle() {
        if (!held) return;
        held = false;
        context.settle();
        context.refresh();
      },
    });
  const fans = [fanOf("Training", "mean of the batch"), fanOf("Inference", "moving mean")];
  const moved = h("p", { class: "moved", role: "status" });
  const count = begun.x[0].length;
  const choose = chooser("Channel", named("", count), (index) =>
    context.change({ channel: index }),
  );

  return {
    elements: [
      count > 1 ? choose.element : "",
      h("div", { class: "fans" }, ...fans.map((fan) => fan.element)),
      moved,
    ],
    /**
     * @param {State} state
     * @param {Computed} values
     */
    update(state, values) {
      const other = state.channel !== channel;
      channel = state.channel;
      choose.update(channel);
      const column = (/** @type {readonly (readonly number[])[]} */ rows) =>
        rows.map((row) => row[channel]);
      const x = column(state.x);
      const modes = [values.training, values.inference].map((mode) => ({
        x,
        y: column(mode.y),
        mean: mode.mean[0][channel],
      }));
      // The scale stands while a sample is dragged: else the others would seem to move.
      if (!held || other || scales === undefined) {
        scales = modes.map(({ y }) => ({ x: rangeOf(x), y: rangeOf(y) }));
      }
      for (const [index, fan] of fans.entries()) {
        fan.update(modes[index], scales[index]);
        if (other) fan.forget();
      }
      say(
        moved,
        movements(fans.map((fan, index) => ({ before: fan.before, now: modes[index].y }))),
      );
    },
  };
}

/**
 * Say how many outputs moved in training and in inference.
 * @param {readonly {before: readonly number[] | null, now: readonly number[]}[]} modes
 */
export function movements(modes) {
  const counts = modes.map(
    ({ before, now }) => now.filter((y, at) => before !== null && !Object.is(y, before[at])).length,
  );
  const [{ before, now }] = modes;
  if (before === null || counts.every((count) => count === 0)) return "";
  const most = Math.max(...now.map((y, at) => Math.abs(y - before[at])));
  return (
    `Since the rings: in training ${counts[0]} of ${now.length} outputs moved, by up to ` +
    `${shown(most, 3)}; in inference ${counts[1]}.`
  );
}
