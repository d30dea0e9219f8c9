/** Elements, in one line each. */

/** @typedef {Node | string | null} Child */
/** @typedef {Record<string, string | number | boolean | ((event: any) => void)>} Attributes */

const SVG = "http://www.w3.org/2000/svg";

const FOCUSABLE = ["a", "button", "input", "select", "textarea"];

/**
 * Let an element that has the focus have its keys, in JupyterLab too: there letters are commands,
 * unless the very element says otherwise.
 * @param {Element} element
 */
export function keepKeys(element) {
  element.setAttribute("data-lm-suppress-shortcuts", "true");
}

/**
 * @param {Element} element
 * @param {Attributes} attributes
 * @param {Child[]} children
 */
function furnish(element, attributes, children) {
  if (FOCUSABLE.includes(element.localName) || "tabindex" in attributes) keepKeys(element);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false) element.setAttribute(name, String(value));
  }
  for (const child of children) if (child !== null) element.append(child);
}

/**
 * Return an HTML element; an attribute `onclick` listens to "click".
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes} [attributes]
 * @param {Child[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  furnish(element, attributes, children);
  return element;
}

/**
 * Return an SVG element.
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes} [attributes]
 * @param {Child[]} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  furnish(element, attributes, children);
  return /** @type {SVGElementTagNameMap[Tag]} */ (element);
}

let made = 0;

/**
 * Return an id that no other element has: a notebook may show the page more than once.
 * @param {string} name
 */
export function unique(name) {
  made += 1;
  return `bnm-${name}-${made}`;
}

/**
 * Change a text only where it is another: screen readers hear what is set.
 * @param {Node} node
 * @param {string} text
 */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Return a function that makes its result anew only for another key than the last time.
 * @template Result
 * @param {(key: string) => Result} make
 * @returns {(key: string) => Result}
 */
export function whenChanged(make) {
  /** @type {{key: string, result: Result} | undefined} */
  let last;
  return (key) => {
    if (last?.key !== key) last = { key, result: make(key) };
    return last.result;
  };
}
