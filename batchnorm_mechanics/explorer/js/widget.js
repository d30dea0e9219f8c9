/** The one entry: mounts itself on the page, and gives anywidget its `render`. */

import { mount } from "./main.js";

export { mount };

for (const host of document.querySelectorAll("[data-bnm-explorer]")) {
  if (host instanceof HTMLElement) {
    mount(host, { address: true, data: JSON.parse(host.dataset.bnmExplorer || "{}") });
  }
}
