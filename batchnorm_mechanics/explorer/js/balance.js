/** A sum as bars: what each way brings, to either side of 0, and what is left of them. */

import { h, say } from "./dom.js";
import { shown } from "./numbers.js";

/** @param {string} title */
export function createBalance(title) {
  const rows = h("tbody");
  const verdict = h("p", { class: "verdict", role: "status" });
  const element = h(
    "figure",
    { class: "balance" },
    h("figcaption", {}, title),
    h("table", { "aria-label": title }, rows),
    verdict,
  );

  return {
    element,
    /**
     * @param {import("./gradients-model.js").Balance} balance
     * @param {string} holds what it means that it vanishes
     * @param {string} fails what it means that it does not
     */
    update({ parts, total, vanishes }, holds, fails) {
      const most = Math.max(...parts.map(({ value }) => Math.abs(value)), Math.abs(total), 1e-30);
      const lines = [...parts, { name: "together", value: total }];
      rows.replaceChildren(
        ...lines.map(({ name, value }, at) => {
          const bar = h("span", { class: value < 0 ? "is-negative" : "" });
          const share = Number.isFinite(value) ? Math.abs(value) / most : 0;
          bar.style.setProperty("--share", share.toFixed(4));
          return h(
            "tr",
            { class: at === parts.length ? "together" : "" },
            h("th", { scope: "row" }, name),
            h("td", { class: "track", "aria-hidden": "true" }, bar),
            h("td", { class: "amount" }, shown(value, 4)),
          );
        }),
      );
      element.classList.toggle("is-broken", !vanishes);
      say(verdict, vanishes ? holds : fails);
    },
  };
}
