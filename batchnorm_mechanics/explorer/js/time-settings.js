/** What comes in room 4: a distribution with a jump, batches of any size, or the user's own. */

import { h } from "./dom.js";
import { createGrid } from "./grid.js";
import { ownModel } from "./own.js";
import { stepper } from "./room.js";
import * as time from "./time-model.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {time.State} State */

/**
 * Return the settings.
 * @param {RoomContext} context
 */
export function createSettings(context) {
  /** @type {State} */
  let state;
  /**
   * @param {string} name
   * @param {string} title
   * @param {"momentum" | "batches" | "jump" | "seed"} field
   */
  const single = (name, title, field) =>
    createGrid(
      {
        name,
        title,
        rows: [""],
        columns: [""],
        quiet: true,
        refuse: time.refuse[field],
        edit: (_, __, value, gesture) => context.change({ [field]: value }, gesture),
      },
      context,
    );
  const ones = {
    momentum: single("momentum", "Momentum", "momentum"),
    batches: single("batches", "Batches", "batches"),
    jump: single("jump", "Jump after", "jump"),
    seed: single("seed", "Seed", "seed"),
  };
  const sources = /** @type {const} */ (["before", "after"]).map((when, row) =>
    createGrid(
      {
        name: when,
        title: row === 0 ? "Before the jump" : "After it",
        rows: [""],
        columns: ["mean", "std. dev."],
        refuse: (value, column) => time.refuse[column === 0 ? "mean" : "spread"](value),
        edit: (_, column, value, gesture) => {
          const own = state.source[row].with(column, value);
          context.change({ source: state.source.with(row, own) }, gesture);
        },
      },
      context,
    ),
  );
  const sizes = h("div", { class: "stack alone" });
  const drawn = h(
    "div",
    { class: "inputs" },
    ...sources.map((grid) => grid.element),
    sizes,
    ones.jump.element,
    ones.batches.element,
    ones.seed.element,
  );
  const own = createOwn(context);
  let count = 0;
  /** @type {import("./grid.js").Grid | undefined} */
  let grid;

  return {
    element: h(
      "div",
      { class: "stack" },
      own.element,
      h("div", { class: "inputs" }, ones.momentum.element),
      drawn,
    ),
    /**
     * @param {State} next
     * @param {import("./own.js").OwnLayer} [layer]
     */
    update(next, layer) {
      state = next;
      drawn.hidden = layer !== undefined;
      if (count !== state.sizes.length) {
        count = state.sizes.length;
        context.rebuild(sizes, () => {
          grid = createSizes(count);
        });
      }
      grid?.update([state.sizes]);
      sources.forEach((each, row) => {
        each.update([state.source[row]]);
      });
      for (const field of /** @type {const} */ (["momentum", "batches", "jump", "seed"])) {
        ones[field].update([[state[field]]]);
      }
      own.update(state, layer);
    },
  };

  /** @param {number} many */
  function createSizes(many) {
    const made = createGrid(
      {
        name: "sizes",
        title: "Samples in a batch",
        hint: many > 1 ? "in turn" : "",
        rows: [""],
        columns: Array.from({ length: many }, (_, at) => `size ${at + 1}`),
        quiet: true,
        refuse: time.refuse.size,
        edit: (_, column, value, gesture) =>
          context.change({ sizes: state.sizes.with(column, value) }, gesture),
      },
      context,
    );
    const change = (/** @type {number} */ by) =>
      context.change({ sizes: by > 0 ? [...state.sizes, 1] : state.sizes.slice(0, -1) });
    sizes.replaceChildren(made.element, stepper("size", many, time.MOST.sizes, change));
    return made;
  }
}

/**
 * The choice between what is drawn here and what a layer of the user's model gets.
 * @param {RoomContext} context
 */
function createOwn(context) {
  const own = ownModel(context.data);
  const layer = h(
    "select",
    {
      "aria-label": "What comes",
      onchange: () => {
        const chosen = layer.selectedIndex - 1;
        const found = own?.layers[chosen];
        const batches = found?.batches.length;
        const momentum = found?.momentum;
        context.change({
          layer: chosen,
          channel: 0,
          ...(batches !== undefined && { batches, at: batches }),
          ...(typeof momentum === "number" &&
            time.refuse.momentum(momentum) === null && { momentum }),
        });
      },
    },
    h("option", {}, "Made up numbers"),
    ...(own?.layers ?? []).map(({ name }) => h("option", {}, `${own?.name}: ${name}`)),
  );
  const channel = h("select", {
    "aria-label": "Channel",
    onchange: () => context.change({ channel: channel.selectedIndex }),
  });
  const label = h("label", {}, " channel ", channel);
  const origin = h(
    "p",
    { class: "origin" },
    `Each batch’s mean and variance: measured by bnm doctor on ${own?.data}, with the model’s layers ` +
      "normalizing by the batch, as in training. What your model keeps: its own weights.",
  );
  const element = h("div", {}, h("p", { class: "pick" }, layer, label), origin);
  element.hidden = own === undefined;
  return {
    element,
    /**
     * @param {State} state
     * @param {import("./own.js").OwnLayer} [now]
     */
    update(state, now) {
      layer.selectedIndex = now === undefined ? 0 : state.layer + 1;
      label.hidden = now === undefined;
      origin.hidden = now === undefined;
      if (now === undefined) return;
      if (channel.length !== now.channels) {
        channel.replaceChildren(
          ...Array.from({ length: now.channels }, (_, at) => h("option", {}, `${at}`)),
        );
      }
      channel.selectedIndex = state.channel;
    },
  };
}
