/** What the doctor says, as cards. */

import { h } from "./dom.js";

/** @typedef {import("./network-model.js").Told} Told */
/** @typedef {import("./network-model.js").Group} Group */

/**
 * Return words, with what stands between backticks as code.
 * @param {string} words
 */
function withCode(words) {
  return words.split("`").map((part, at) => (at % 2 === 1 ? h("code", {}, part) : part));
}

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
        .flatMap(([label, words]) => [h("dt", {}, label), h("dd", {}, ...withCode(words))]),
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
