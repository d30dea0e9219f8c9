// What people search for is a way out first, and then how it works: their pages come before those
// that only mention it.
const WEIGHTS = { wrong: 30, howto: 20, how: 15, rules: 10, notebooks: 5, changes: -20, under_the_hood: -10 };

// biome-ignore lint/correctness/noUnusedVariables: Sphinx looks for it by this name
var Scorer = {
  score: ([document, , , , score]) => score + (WEIGHTS[document.split("/")[0]] ?? 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
