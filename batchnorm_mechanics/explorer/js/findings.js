/** What the doctor says, as cards. */

import { h } from "./dom.js";

/** @typedef {import("./network-model.js").Told} Told */
/** @typedef {import("./network-model.js").Group} Group */

/**
 * Return one finding.
 * @param {Group} group
 */
function card(group) {
  const rows = /** @type {const} */ ([
    ["Where", group.where],
    ["Why", group.why],
    ["Seen", group.seen],
    ["Do", group.do],
    ...group.so.map((line) => /** @type {const} */ (["So", line])),
  ]);
  return h(
    "article",
    { class: `finding is-${group.severity}` },
    h(
      "h4",
      {},
      h("span", { class: "severity" }, group.severity),
      ` ${group.code} `,
      h("span", { class: "hint" }, group.name),
    ),
    h(
      "dl",
      {},
      ...rows
        .filter(([, words]) => words !== "")
        .flatMap(([label, words]) => [h("dt", {}, label), h("dd", {}, words)]),
    ),
  );
}

/**
 * Return the findings of a diagnosis; notes are folded.
 * @param {Told} told
 */
export function findings(told) {
  const loud = told.groups.filter(({ severity }) => severity !== "note");
  const notes = told.groups.filter(({ severity }) => severity === "note");
  const folded =
    notes.length === 0 ? null : h("details", {}, h("summary", {}, "Notes"), ...notes.map(card));
  return h(
    "div",
    { class: "findings" },
    h("p", { class: `verdict-line ${told.is_sick ? "is-sick" : "is-well"}` }, told.verdict),
    ...loud.map(card),
    folded,
  );
}
