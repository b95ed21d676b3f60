// An answer as its tokens, each coloured by what is known about it: how probable it was, whether
// the draft guessed it, or which experts it visited. Hover, focus and arrows show the details.

import { byId, element } from "./dom.js";
import { expertLegend, expertTip, hue } from "./experts.js";
import { percent, shown } from "./token_texts.js";

export const VIEWS = [
  ["plain", "Plain"],
  ["probability", "Probability"],
  ["draft", "Draft"],
  ["experts", "Experts"],
];

// Shows the tokens of one text in one view, and further ones as they arrive.
export class TokenText {
  constructor(root, list, view, look) {
    this.root = root;
    this.list = list;
    this.view = view;
    this.look = look; // of the experts' view: {layers, experts, layer, expert or null}
    root.classList.add("tokens");
    root.dataset.view = view;
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "Tokens; the arrow keys go from one to the next");
    root.addEventListener("pointerover", (event) => this.point(event.target));
    root.addEventListener("pointerleave", hideTip);
    root.addEventListener("focusin", (event) => this.point(event.target));
    root.addEventListener("focusout", hideTip);
    root.addEventListener("keydown", (event) => this.walk(event));
  }

  // Add the tokens that have come since.
  show() {
    const { root, list } = this;
    for (let index = root.childElementCount; index < list.length; index += 1) {
      const token = list[index];
      const node = element("span", { class: "token", "data-index": index }, token.text);
      colour(node, token, this.view, this.look);
      root.append(node);
    }
    root.firstElementChild?.setAttribute("tabindex", "0");
  }

  // Colour all tokens again, after another layer or expert was chosen.
  recolour() {
    for (const node of this.root.children) {
      colour(node, this.list[node.dataset.index], this.view, this.look);
    }
  }

  point(node) {
    const token = this.list[node.dataset.index];
    if (token) {
      showTip(node, describe(token, this.view, this.look));
    }
  }

  // One token of each text is in the order of Tab; arrows, Home and End move among the others.
  walk(event) {
    const nodes = this.root.children;
    const at = Number(document.activeElement.dataset.index);
    const last = nodes.length - 1;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape" && !byId("tip").hidden) {
      event.stopPropagation();
      hideTip();
    }
    if (nodes[next]) {
      event.preventDefault();
      nodes[at].removeAttribute("tabindex");
      nodes[next].setAttribute("tabindex", "0");
      nodes[next].focus();
    }
  }
}

function colour(node, token, view, look) {
  let strength = 0;
  if (view === "probability") {
    // Less than linear, so that 90 % looks unlike 100 %.
    strength = (1 - Math.exp(Math.min(0, token.logProb))) ** 0.7;
  } else if (view === "draft") {
    strength = token.drafted ? 1 : 0;
  } else if (view === "experts") {
    const visited = token.experts?.[look.layer] ?? [];
    const expert = look.expert ?? visited[0];
    strength = visited.includes(expert) ? 1 : 0;
    node.style.setProperty("--hue", hue(expert ?? 0));
  }
  node.style.setProperty("--strength", strength.toFixed(3));
  node.classList.toggle("marked", strength > 0.5 && view !== "experts");
}

// What the box next to a token says, as elements.
function describe(token, view, look) {
  const parts = [element("p", { class: "tip-token" }, shown(token.text))];
  if (view === "probability") {
    parts.push(element("p", {}, `Probability ${percent(token.logProb)}`));
    parts.push(alternatives(token));
  } else if (view === "draft") {
    const guessed = "The draft guessed it; the model accepted it.";
    parts.push(element("p", {}, token.drafted ? guessed : "The draft did not guess it."));
  } else if (token.experts) {
    parts.push(...expertTip(token.experts, look));
  } else {
    parts.push(element("p", {}, "The model has not read this token."));
  }
  return parts;
}

// The most probable tokens at this place, each with a bar, and the chosen one if it is not of them.
function alternatives(token) {
  const isChosen = (other) => other.text === token.name;
  const itself = { text: token.name, logProb: token.logProb };
  const all = token.top.some(isChosen) ? token.top : [...token.top, itself];
  const rows = all.map((other) => {
    const bar = element("span", { class: "bar" });
    bar.style.setProperty("--share", Math.exp(other.logProb).toFixed(4));
    const chosen = isChosen(other);
    const cells = [element("code", {}, shown(other.text)), bar, percent(other.logProb)];
    return element("li", { class: chosen ? "chosen" : null }, ...cells);
  });
  return element("ol", { class: "alternatives" }, ...rows);
}

function showTip(node, parts) {
  const tip = byId("tip");
  tip.replaceChildren(...parts);
  tip.hidden = false;
  document.querySelector("[aria-describedby='tip']")?.removeAttribute("aria-describedby");
  node.setAttribute("aria-describedby", "tip");

  // Below the token, or above it near the bottom of the window; never over its edges.
  const place = node.getClientRects()[0] ?? node.getBoundingClientRect();
  const room = document.documentElement;
  const left = Math.min(place.left, room.clientWidth - tip.offsetWidth - 8);
  const below = place.bottom + 6;
  const above = place.top - tip.offsetHeight - 6;
  const top = below + tip.offsetHeight > room.clientHeight && above > 0 ? above : below;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${top}px`;
}

export function hideTip() {
  byId("tip").hidden = true;
}

// The line above the tokens: what the colours mean, and one figure over all of them. Returns its
// element, and a function that counts again after further tokens have come.
export function legend(view, tokens, look, recolour) {
  const all = () => [...tokens.thinking, ...tokens.content];
  if (view === "experts") {
    return expertLegend(all, look, recolour);
  }
  const figure = element("span");
  const node = element("div", { class: "legend" });
  if (view === "probability") {
    const scale = element("span", { class: "scale", "aria-hidden": "true" });
    node.append("100 %", scale, "0 %", figure);
  } else {
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    node.append(swatch, element("span", {}, "guessed by the draft"), figure);
  }
  const sentence = view === "probability" ? perplexity : guesses;
  return { node, refresh: () => (figure.textContent = sentence(all())) };
}

function perplexity(tokens) {
  const nats = tokens.reduce((sum, token) => sum - token.logProb, 0);
  return tokens.length ? `perplexity ${Math.exp(nats / tokens.length).toFixed(2)}` : "";
}

function guesses(tokens) {
  const guessed = tokens.filter((token) => token.drafted).length;
  const share = tokens.length ? Math.round((100 * guessed) / tokens.length) : 0;
  return `${guessed} of ${tokens.length} tokens, ${share} %`;
}
