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
  const take = () => {
    const state = Object.entries(TRAITS).map(([field, trait]) => [field, read(model.get(trait))]);
    store.change(Object.fromEntries(state), null, "batch");
  };
  const follow = () => {
    if (model.get("address") !== store.address()) store.follow(model.get("address"));
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
  take();
  store.follow(asked);
  store.forget();
  give();
  const stop = store.subscribe(give);
  const events = Object.values(TRAITS).map((trait) => `change:${trait}`);
  for (const event of events) model.on(event, take);
  model.on("change:address", follow);
  return () => {
    for (const event of events) model.off(event, take);
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
