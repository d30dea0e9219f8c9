/** The statistics of each group, and how a group's variance comes together axis by axis. */

import * as axes from "./axes-model.js";
import { h } from "./dom.js";
import { createGrid } from "./grid.js";
import { shown } from "./numbers.js";
import { text } from "./room.js";

/**
 * Return a group's colour: neighbours in the order differ by the golden angle.
 * @param {number} group
 */
export function hue(group) {
  return `${Math.round(230 + group * 137.5) % 360}`;
}

/**
 * The groups' statistics, and one group's variance axis by axis.
 * @param {HTMLElement} body
 * @param {axes.State} begun
 * @param {import("./room.js").RoomContext} context
 */
export function createTables(body, begun, context) {
  const count = axes.computed(begun).mean.length;
  const groupNames = Array.from({ length: count }, (_, group) => `group ${axes.letter(group)}`);
  const groups = createGrid(
    {
      name: "groups",
      title: "What the groups share",
      rows: groupNames,
      columns: ["count m′", "mean μ", "variance σ²"],
      coloured: false,
    },
    context,
  );
  const steps = createGrid(
    {
      name: "steps",
      title: "One axis after another",
      rows: begun.axes.map((axis) => `axis ${axis}, ${axes.AXES[axis]}`),
      columns: ["mean of var.", "+ var. of means", "= variance"],
    },
    context,
  );
  const bar = h("div", { class: "bar", role: "img" });
  const select = h(
    "select",
    {
      "data-key": "group",
      onchange: () => context.change({ group: [select.selectedIndex] }),
    },
    ...groupNames.map((name) => h("option", {}, name)),
  );
  body.replaceChildren(
    h("h3", {}, "How the axes add up"),
    text(
      "A mean over several axes is a mean of means. A variance is the mean of the variances so " +
        "far plus the variance of the means: each axis adds what varies along it. Switch axes off " +
        "and on to take them in another order; the sum stays.",
    ),
    h(
      "div",
      { class: "flows" },
      groups.element,
      h(
        "div",
        { class: "stack" },
        h("label", { class: "pick" }, "Of ", select),
        steps.element,
        bar,
      ),
    ),
  );
  return {
    /**
     * @param {axes.State} state
     * @param {axes.Computed} values
     */
    update(state, values) {
      const [group] = state.group;
      groups.update(values.mean.map((mean, at) => [values.count, mean, values.variance[at]]));
      steps.update(
        values.steps.map((step) => [step.meanOfVariances, step.varianceOfMeans, step.variance]),
      );
      groupNames.forEach((_, at) => {
        for (const column of [0, 1, 2]) {
          context.cells.get(`groups.${at}.${column}`)?.style.setProperty("--hue", hue(at));
        }
      });
      select.selectedIndex = group;
      const parts = values.steps.map((step) => ({ ...step, share: step.varianceOfMeans }));
      const total = parts.reduce((sum, { share }) => sum + share, 0);
      bar.setAttribute(
        "aria-label",
        `Variance of ${groupNames[group]}: ${parts
          .map(({ axis, share }) => `axis ${axis} adds ${shown(share)}`)
          .join(", ")}`,
      );
      bar.replaceChildren(
        ...parts.map(({ share }, at) => {
          const piece = h("span", { class: `piece piece-${at}` }, shown(share, 4));
          piece.style.flexGrow = String(total > 0 ? share / total : 1);
          return piece;
        }),
      );
    },
  };
}
