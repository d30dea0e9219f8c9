/** Play, pause, one step back or further, and a slider: for what goes on in time. */

import { h, say } from "./dom.js";

const EVERY = 90;
/** Where motion is unwelcome, it goes by leaps that one can look at. */
const CALM = { every: 1200, steps: 10 };

/**
 * Return the controls.
 * @param {object} spec
 * @param {string} spec.name of what is gone through, such as "batch"
 * @param {(at: number, gesture: string) => void} spec.change
 * @param {() => void} spec.settle
 */
export function createPlayback({ name, change, settle }) {
  /** @type {number | undefined} */
  let timer;
  let [at, last] = [0, 0];

  function pause() {
    window.clearInterval(timer);
    timer = undefined;
    settle();
    tell();
  }

  function go() {
    // Another room may have been entered, or the page left.
    if (!element.isConnected) return pause();
    change(Math.min(at + (calm() ? CALM.steps : 1), last), "play");
    if (at >= last) pause();
  }

  function start() {
    settle();
    if (at >= last) change(0, "play");
    timer = window.setInterval(go, calm() ? CALM.every : EVERY);
    tell();
  }

  const play = h("button", {
    type: "button",
    class: "primary",
    "data-key": `${name} play`,
    onclick: () => (timer === undefined ? start() : pause()),
  });
  const step = (
    /** @type {number} */ by,
    /** @type {string} */ sign,
    /** @type {string} */ label,
  ) =>
    h(
      "button",
      {
        type: "button",
        "aria-label": label,
        onclick: () => {
          pause();
          change(Math.min(Math.max(at + by, 0), last), "step");
          settle();
        },
      },
      sign,
    );
  const slider = h("input", {
    type: "range",
    min: 0,
    step: 1,
    "aria-label": `Go to a ${name}`,
    "data-lm-suppress-shortcuts": "true",
    oninput: () => {
      if (timer !== undefined) pause();
      change(Number(slider.value), "scrub");
    },
    onchange: settle,
  });
  const words = h("output", { "aria-live": "off" });
  const element = h(
    "div",
    { class: "playback", role: "group", "aria-label": "Playback" },
    play,
    step(-1, "‹", `One ${name} back`),
    step(1, "›", `One ${name} further`),
    slider,
    words,
  );
  const tell = () => say(play, timer === undefined ? "Play" : "Pause");
  tell();

  return {
    element,
    /**
     * @param {number} now
     * @param {number} end
     * @param {string} about where that is, in words
     */
    update(now, end, about) {
      [at, last] = [now, end];
      slider.max = String(end);
      slider.value = String(now);
      slider.setAttribute("aria-valuetext", about);
      say(words, about);
    },
  };
}

function calm() {
  return window.matchMedia("(prefers-reduced-motion: reduce)").matches;
}
