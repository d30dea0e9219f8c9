/** The one entry: puts itself on the page, and gives anywidget its `render`. */

import { mount } from "./main.js";
import { parsed } from "./numbers.js";

/** The traits of `widget.py`, by the fields of the first room. */
const TRAITS = {
  x: "x",
  gamma: "gamma",
  beta: "beta",
  epsilon: "epsilon",
  mean: "moving_mean",
  variance: "moving_variance",
};

/** Milliseconds in which what one cell of a notebook sets has come. */
const TOGETHER = 100;

/**
 * What is used of anywidget's model.
 * @typedef {object} WidgetModel
 * @property {(name: string) => any} get
 * @property {(name: string, value: unknown) => void} set
 * @property {() => void} save_changes
 * @property {(event: string, listener: () => void) => void} on
 * @property {(event: string, listener: () => void) => void} off
 */

/**
 * Return a trait's numbers: JSON has none that are not finite, so these come as text.
 * @param {any} value
 * @returns {any}
 */
function read(value) {
  if (Array.isArray(value)) return value.map(read);
  return typeof value === "string" ? parsed(value) : value;
}

/**
 * The reverse.
 * @param {any} value
 * @returns {any}
 */
function written(value) {
  if (Array.isArray(value)) return value.map(written);
  return Number.isFinite(value) ? value : String(value);
}

/**
 * Show the explorer in a notebook, and keep its state and the widget's traits alike.
 * @param {{model: WidgetModel, el: HTMLElement}} view
 */
function render({ model, el }) {
  const { store, destroy } = mount(el, { data: model.get("_data") ?? {} });
  const take = (/** @type {[string, string][]} */ traits) => {
    const state = traits.map(([field, trait]) => [field, read(model.get(trait))]);
    store.change(Object.fromEntries(state), null, "batch");
  };
  // An address says what x is, too. If Python sets x right after it, that comes while the page's
  // answer to the address is on its way, and would be lost: so the answer waits for it.
  let answer = 0;
  const follow = () => {
    if (model.get("address") === store.address()) return;
    window.clearTimeout(answer);
    answer = window.setTimeout(() => {
      answer = 0;
      give();
    }, TOGETHER);
    store.follow(model.get("address"));
  };
  const give = () => {
    const state = store.state("batch");
    for (const [field, trait] of Object.entries(TRAITS)) {
      const value = written(state[field]);
      if (JSON.stringify(value) !== JSON.stringify(model.get(trait))) model.set(trait, value);
    }
    if (model.get("address") !== store.address()) model.set("address", store.address());
    model.save_changes();
  };

  const asked = model.get("address");
  take(Object.entries(TRAITS));
  store.follow(asked);
  store.forget();
  give();
  const stop = store.subscribe(() => {
    if (answer === 0) give();
  });
  const events = Object.entries(TRAITS).map(([field, trait]) => ({
    event: `change:${trait}`,
    // Of what was not set, the page may know better: an address has just said it.
    listener: () => take([[field, trait]]),
  }));
  for (const { event, listener } of events) model.on(event, listener);
  model.on("change:address", follow);
  return () => {
    window.clearTimeout(answer);
    for (const { event, listener } of events) model.off(event, listener);
    model.off("change:address", follow);
    stop();
    destroy();
  };
}

export { mount };
export default { render };

for (const host of document.querySelectorAll("[data-bnm-explorer]")) {
  if (host instanceof HTMLElement) {
    mount(host, { address: true, data: JSON.parse(host.dataset.bnmExplorer || "{}") });
  }
}
