/** For each policy of room 4, a bar of what its mean is made of. */

import { h, say } from "./dom.js";
import { percent } from "./time-cells.js";
import * as time from "./time-model.js";

/** @typedef {time.State} State */

/** Return the bars. */
export function createParts() {
  const kinds = /** @type {const} */ (["start", "before", "after"]);
  const rows = time.POLICIES.map(({ name, line }) => {
    const pieces = kinds.map((kind) => h("span", { class: `part part-${kind}` }));
    const bar = h("div", { class: "made-of", role: "img" }, ...pieces);
    const label = h("span", { class: "name" }, h("span", { class: `key line-${line}` }), name);
    return { name, bar, pieces, element: h("div", { class: "part-row" }, label, bar) };
  });
  const names = { start: "its start", before: "before the jump", after: "after the jump" };
  const labels = kinds.map((kind) => h("span", {}, names[kind]));
  const keys = kinds.map((kind, at) =>
    h("li", {}, h("span", { class: `swatch part-${kind}` }), labels[at]),
  );
  return {
    element: h(
      "div",
      { class: "parts" },
      h("ul", { class: "keys" }, ...keys),
      ...rows.map((row) => row.element),
    ),
    /**
     * @param {State} state
     * @param {time.Followed} found
     * @param {boolean} jumps whether there is a jump at all
     */
    update(state, found, jumps) {
      names.before = jumps ? "before the jump" : "the batches";
      say(labels[1], names.before);
      keys[2].hidden = !jumps;
      rows.forEach(({ name, bar, pieces }, which) => {
        const shares = time.madeOf(which, state, found);
        kinds.forEach((kind, at) => {
          pieces[at].style.flexGrow = shares[kind].toFixed(5);
          say(pieces[at], shares[kind] >= 0.09 ? percent(shares[kind]) : "");
        });
        const parts = kinds
          .filter((kind) => jumps || kind !== "after")
          .map((kind) => `${percent(shares[kind])} ${names[kind]}`);
        bar.setAttribute("aria-label", `${name}: ${parts.join(", ")}`);
      });
    },
  };
}
