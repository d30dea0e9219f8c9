/** Numbers drawn as bits, each power of two in a column of its own. */

import { bitsOf, columnsOf } from "./bits-model.js";
import { h, say } from "./dom.js";
import { shown } from "./numbers.js";

/** @typedef {import("./bits-model.js").Written} Written */

/**
 * Return a picture of some numbers.
 * @param {string} title
 */
export function createBits(title) {
  const head = h("div", { class: "powers", "aria-hidden": "true" });
  const body = h("div", { class: "bit-rows" });
  const element = h("figure", { class: "bits" }, h("figcaption", {}, title), head, body);

  return {
    element,
    /** @param {readonly Written[]} rows */
    update(rows) {
      const columns = columnsOf(rows);
      if (columns === null) {
        head.replaceChildren();
        body.replaceChildren(
          ...rows.map(({ label, value }) =>
            h("p", { class: "bit-label" }, `${label} = ${shown(value, 9)}`),
          ),
        );
        return;
      }
      const { top, bottom } = columns;
      element.style.setProperty("--columns", String(top - bottom + 1));
      head.replaceChildren(
        ...Array.from({ length: top - bottom + 1 }, (_, at) => {
          const exponent = top - at;
          const named = exponent === top || exponent === bottom || exponent === 0;
          const near = exponent !== 0 && Math.abs(exponent) < 4 && exponent !== top;
          return h(
            "span",
            {},
            named && !near ? h("span", {}, "2", h("sup", {}, shown(exponent))) : "",
          );
        }),
      );
      body.replaceChildren(
        ...rows.map((row) => {
          const number = h("span", { class: "bit-number" }, shown(row.value, 9));
          const label = h("p", { class: "bit-label" }, `${row.label} = `, number);
          if (!Number.isFinite(row.value)) return h("div", { class: "bit-row" }, label);
          const bits = bitsOf(row, columns);
          const digits = bits.map((bit, at) => {
            const digit = h("span", { class: `bit bit-${bit}` });
            if (top - at === 0) digit.classList.add("is-unit");
            if (bit !== "none" && bit !== "above") say(digit, /one$/.test(bit) ? "1" : "0");
            return digit;
          });
          const count = (/** @type {RegExp} */ kind) => bits.filter((bit) => kind.test(bit)).length;
          const lost = count(/^lost/);
          const about =
            `${row.label}, ${shown(row.value, 9)}: ${count(/^(one|zero)$/)} bits` +
            `${lost > 0 ? `, and ${lost} that are lost` : ""}`;
          return h(
            "div",
            { class: "bit-row" },
            label,
            h("div", { class: "bit-line", role: "img", "aria-label": about }, ...digits),
          );
        }),
      );
    },
  };
}
