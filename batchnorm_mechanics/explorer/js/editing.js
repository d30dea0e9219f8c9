/** Editing a number in a cell: typing, dragging sideways, and steps by keys. */

import { h, say } from "./dom.js";
import { exact, parsed, written } from "./numbers.js";

/**
 * @typedef {object} Editing
 * @property {string} id of the cell
 * @property {string} label what screen readers call it
 * @property {(value: number, gesture: string) => void} edit
 * @property {() => void} settle the gesture has ended
 * @property {(value: number) => string | null} refuse why a number cannot be, or null
 * @property {HTMLElement} note where a refusal is explained
 */

const PIXELS_A_STEP = 4;
const PIXELS_BEFORE_DRAGGING = 4;

/**
 * Return by how much one step changes a number: a twentieth of its power of ten.
 * @param {number} value
 */
export function stepOf(value) {
  const size = Number.isFinite(value) ? Math.max(Math.abs(value), 1) : 1;
  return 10 ** Math.floor(Math.log10(size)) / 20;
}

/**
 * Return a number some steps further, without digits that the steps do not have.
 * @param {number} value
 * @param {number} steps
 * @param {number} [step]
 */
export function stepped(value, steps, step = stepOf(value)) {
  const from = Number.isFinite(value) ? value : 0;
  return Number((from + steps * step).toPrecision(6));
}

/**
 * Say why a text or a number is not taken, or return the number.
 * @param {string} text
 * @param {(value: number) => string | null} refuse
 * @returns {{value: number} | {why: string}}
 */
export function judged(text, refuse) {
  const value = parsed(text);
  if (text.trim() === "") return { why: "Nothing is written here." };
  if (value === undefined) {
    return { why: `“${text.trim()}” is not a number; write it as 2, -0.5 or 1e-3.` };
  }
  if (Number.isFinite(value) && !Number.isFinite(Math.fround(value))) {
    return { why: `${text.trim()} is larger than float32 can hold, which ends at 3.4e38.` };
  }
  const why = refuse(value);
  return why === null ? { value } : { why };
}

/**
 * Return an input for a number. What is no number stays in it, is explained, and changes nothing.
 * @param {Editing} editing
 */
export function numberInput({ id, label, edit, settle, refuse, note }) {
  const input = h("input", {
    type: "text",
    inputmode: "text",
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": label,
    "aria-describedby": note.id,
    "data-cell": id,
  });
  let now = Number.NaN;

  function read() {
    const found = judged(input.value, refuse);
    const wrong = "why" in found;
    input.setAttribute("aria-invalid", String(wrong));
    say(note, wrong ? `${label}: ${found.why} ${exact(now)} is still used.` : "");
    if (!wrong) edit(found.value, id);
  }

  /** @param {number} value */
  function put(value) {
    input.value = written(value);
    read();
  }

  input.addEventListener("input", read);
  input.addEventListener("change", settle);
  input.addEventListener("blur", settle);
  input.addEventListener("keydown", (event) => {
    const up = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (event.altKey && up !== undefined) {
      event.preventDefault();
      put(stepped(now, event.shiftKey ? 10 * up : up));
    } else if (event.key === "Escape") {
      input.value = written(now);
      read();
    }
  });
  draggable(input, () => now, put, settle);

  return {
    input,
    /**
     * Show the number of a new state, unless that is what is being written.
     * @param {number} value
     */
    update(value) {
      const changed = !Object.is(value, now);
      now = value;
      const own = parsed(input.value);
      const same = own !== undefined && Object.is(own, value);
      if (same || (!changed && input.getAttribute("aria-invalid") === "true")) return;
      input.value = written(value);
      if (input.getAttribute("aria-invalid") === "true") {
        input.setAttribute("aria-invalid", "false");
        say(note, "");
      }
    },
  };
}

/**
 * Let a number be dragged sideways; a press without a drag begins to type, as ever.
 * @param {HTMLInputElement} input
 * @param {() => number} current
 * @param {(value: number) => void} put
 * @param {() => void} settle
 */
function draggable(input, current, put, settle) {
  /** @type {{at: number, value: number, step: number, moved: boolean} | null} */
  let drag = null;
  input.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || document.activeElement === input) return;
    const value = current();
    drag = { at: event.clientX, value, step: stepOf(value), moved: false };
  });
  input.addEventListener("pointermove", (event) => {
    if (drag === null) return;
    const way = event.clientX - drag.at;
    if (!drag.moved && Math.abs(way) < PIXELS_BEFORE_DRAGGING) return;
    if (!drag.moved) input.setPointerCapture(event.pointerId);
    drag.moved = true;
    event.preventDefault();
    put(stepped(drag.value, Math.round(way / PIXELS_A_STEP), drag.step));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    input.addEventListener(end, () => {
      if (drag?.moved) {
        input.setSelectionRange(0, 0);
        settle();
      }
      drag = null;
    });
  }
}
