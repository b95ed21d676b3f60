// Elements made one by one. Text enters the page as text nodes and nowhere as markup, so nothing
// that a model or a server wrote can become an element or a script.

const SVG = "http://www.w3.org/2000/svg";

// Lines of each icon, on a grid of 24.
const ICONS = {
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  menu: "M4 7h16M4 12h16M4 17h10",
  settings: "M4 8h9M17 8h3M4 16h3M11 16h9M15 6v4M9 14v4",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  stop: "M8 8h8v8H8z",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  done: "M5 13l4 4L19 7",
  again: "M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  rename: "M4 20h16M6 15l9-9 3 3-9 9H6z",
  save: "M12 4v11M7 11l5 5 5-5M5 20h14",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  thinking: "M9 17h6M10 20h4M12 4a6 6 0 0 0-3 11h6a6 6 0 0 0-3-11z",
};

// An element with attributes, listeners (names that begin with "on") and children.
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      node.addEventListener(name.slice(2), value);
    } else {
      setAttribute(node, name, value);
    }
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// True sets an attribute without a value; false, null and undefined leave it out.
export function setAttribute(node, name, value) {
  if (value === false || value === null || value === undefined) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? "" : String(value));
  }
}

// An element of a drawing (SVG), with attributes and children.
export function drawing(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    setAttribute(node, name, value);
  }
  node.append(...children);
  return node;
}

export function icon(name) {
  const path = drawing("path", { d: ICONS[name] });
  return drawing("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, path);
}

// A button of an icon alone, which therefore needs a name.
export function iconButton(name, label, click) {
  const attributes = { type: "button", class: "quiet", "aria-label": label, title: label };
  return element("button", { ...attributes, onclick: click }, icon(name));
}

// Put the icons into the buttons of index.html, which only names them.
export function drawIcons() {
  for (const node of document.querySelectorAll("[data-icon]")) {
    node.prepend(icon(node.dataset.icon));
    if (node.hasAttribute("aria-label")) {
      node.title = node.getAttribute("aria-label");
    }
  }
}

export const byId = (id) => document.getElementById(id);

// Make a change, and scroll so that an element which the user points at stays where it is.
export function inPlace(node, change) {
  const before = node.getBoundingClientRect().top;
  change();
  byId("main").scrollTop += node.getBoundingClientRect().top - before;
}

// Copy text, and show on the button for two seconds that it was done.
export async function copy(text, button) {
  await writeClipboard(text);
  button.querySelector("svg").replaceWith(icon("done"));
  announce("Copied");
  setTimeout(() => button.querySelector("svg").replaceWith(icon("copy")), 2000);
}

// Browsers have navigator.clipboard only on https and on this machine.
async function writeClipboard(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = element("textarea", { class: "hidden" });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused?.focus();
}

// Have a screen reader say a sentence when it has nothing else to say.
export function announce(sentence) {
  if (sentence === "") {
    return;
  }
  const log = byId("announcer");
  log.append(element("p", {}, sentence));
  while (log.childElementCount > 20) {
    log.firstElementChild.remove();
  }
}

// Show a line at the bottom for some seconds, with something that can be done about it.
let toastTimer = 0;
export function toast(sentence, action, act) {
  const box = byId("toast");
  const close = () => (box.hidden = true);
  const perform = () => {
    close();
    act();
  };
  const button = action && element("button", { type: "button", onclick: perform }, action);
  box.replaceChildren(...[element("span", {}, sentence), button].filter(Boolean));
  box.hidden = false;
  announce(sentence);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(close, 8000);
}
