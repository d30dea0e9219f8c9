/** Room 2: which numbers of a 4-D input share a mean. */

import * as axes from "./axes-model.js";
import { createTables, hue } from "./axes-tables.js";
import { h, say } from "./dom.js";
import { createGrid } from "./grid.js";
import { createPictures } from "./pictures.js";
import { named, text } from "./room.js";

/** @typedef {import("./room.js").RoomContext} RoomContext */
/** @typedef {axes.State} State */

/** @type {readonly [string, readonly number[]][]} */
const KNOWN = [
  ["Keras, axis=-1", [0, 1, 2]],
  ["Keras, axis=1", [0, 2, 3]],
  ["Layer norm", [1, 2, 3]],
  ["Instance norm", [1, 2]],
];

/** @type {import("./room.js").Room} */
export const roomAxes = {
  id: "axes",
  name: "Axes",
  title: "Which numbers share a mean",
  fields: axes.fields,
  mend: axes.mend,
  python: axes.code,

  mount(element, context) {
    let state = /** @type {State} */ (axes.mend(initial()));
    const sheets = createSheets(context, () => state);
    const choice = createChoice(context, () => state);
    const tables = h("div");
    element.append(
      text(
        "Images have four axes: samples, height, width, channels. Those that are reduced over " +
          "decide which numbers share a mean and a variance, and nothing else does. Keras names " +
          "the axis that is kept instead.",
        "lead",
      ),
      choice.element,
      sheets.element,
      tables,
      h("h3", {}, "What a wrong axis does to images"),
      text(
        "The same two pictures, normalized with one mean for each colour, as Keras does by " +
          "default, and with axis=1, which is right for channels in front. For these it gives " +
          "every row of pixels a mean of its own: sky and ground become equally bright.",
      ),
      createPictures(),
    );
    let shape = "";
    /** @type {ReturnType<typeof createTables> | undefined} */
    let shownTables;
    return (/** @type {State} */ next) => {
      state = next;
      if (shape !== state.axes.join()) {
        shape = state.axes.join();
        context.rebuild(tables, () => {
          shownTables = createTables(tables, state, context);
        });
      }
      const values = axes.computed(state);
      sheets.update(state, values);
      choice.update(state, values);
      shownTables?.update(state, values);
      return axes.model(state, values);
    };
  },
};

function initial() {
  const { x, axes: reduced, group } = axes.fields;
  return { x: x.initial, axes: reduced.initial, group: group.initial };
}

/**
 * The input as what it is: for each sample a sheet for each channel.
 * @param {RoomContext} context
 * @param {() => State} current
 */
function createSheets(context, current) {
  const [rows, columns] = [named("row", axes.SHAPE[1]), named("column", axes.SHAPE[2])];
  const sheets = [0, 1].flatMap((sample) =>
    [0, 1].map((channel) => {
      const place = (/** @type {number} */ row, /** @type {number} */ column) =>
        ((sample * 2 + row) * 3 + column) * 2 + channel;
      const grid = createGrid(
        {
          name: `x${sample}${channel}`,
          title: `Sample ${sample + 1}, channel ${channel + 1}`,
          rows,
          columns,
          quiet: true,
          coloured: false,
          edit: (row, column, value, gesture) =>
            context.change({ x: current().x.with(place(row, column), value) }, gesture),
        },
        context,
      );
      return { grid, sample, place };
    }),
  );
  const pairs = [0, 1].map((sample) =>
    h(
      "div",
      { class: "image" },
      ...sheets.filter((sheet) => sheet.sample === sample).map((sheet) => sheet.grid.element),
    ),
  );
  return {
    element: h("div", { class: "images" }, ...pairs),
    /**
     * @param {State} state
     * @param {axes.Computed} values
     */
    update(state, values) {
      for (const { grid, place } of sheets) {
        grid.update(rows.map((_, row) => columns.map((__, column) => state.x[place(row, column)])));
      }
      axes.CELLS.forEach((cell, element) => {
        const shownCell = context.cells.get(cell);
        shownCell?.style.setProperty("--hue", hue(values.groups[element]));
        shownCell?.setAttribute("data-group", axes.letter(values.groups[element]));
      });
    },
  };
}

/**
 * The axes to choose from, and what they amount to.
 * @param {RoomContext} context
 * @param {() => State} current
 */
function createChoice(context, current) {
  const toggles = axes.AXES.map((name, axis) =>
    h(
      "button",
      {
        type: "button",
        onclick: () => {
          const chosen = current().axes;
          const next = chosen.includes(axis)
            ? chosen.filter((each) => each !== axis)
            : [...chosen, axis];
          if (next.length > 0) context.change({ axes: next });
          else say(why, "One axis at least must be reduced over: a mean needs numbers to be of.");
        },
      },
      h("span", { class: "number" }, `${axis}`),
      `${name}, ${axes.SHAPE[axis]}`,
    ),
  );
  const known = KNOWN.map(([name, reduced]) =>
    h("button", { type: "button", onclick: () => context.change({ axes: reduced }) }, name),
  );
  const why = h("p", { class: "note", role: "status" });
  const sum = h("p", { class: "sum", role: "status" });
  return {
    element: h(
      "div",
      { class: "choice" },
      h(
        "p",
        { class: "toggles", role: "group", "aria-label": "Axes reduced over" },
        h("span", { class: "name" }, "Reduce over"),
        ...toggles,
      ),
      h(
        "p",
        { class: "toggles", role: "group", "aria-label": "As in" },
        h("span", { class: "name" }, "As in"),
        ...known,
      ),
      why,
      sum,
    ),
    /**
     * @param {State} state
     * @param {axes.Computed} values
     */
    update(state, values) {
      toggles.forEach((toggle, axis) => {
        toggle.setAttribute("aria-pressed", String(state.axes.includes(axis)));
      });
      known.forEach((button, index) => {
        const same = KNOWN[index][1].join() === state.axes.toSorted().join();
        button.setAttribute("aria-pressed", String(same));
      });
      say(why, "");
      const groups = values.mean.length;
      const kept = axes.AXES.flatMap((name, axis) => (state.axes.includes(axis) ? [] : [name]));
      say(
        sum,
        `${groups} ${groups === 1 ? "group" : "groups"} of ${values.count} numbers each` +
          `${kept.length > 0 ? `, one for each of: ${kept.join(" × ")}` : ""}.`,
      );
    },
  };
}
