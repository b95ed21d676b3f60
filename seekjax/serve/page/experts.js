// The experts' view: tokens coloured by the experts they visited in one layer, a grid of all layers
// for one token, and the experts of that layer that the answer visited most.

import { drawing, element } from "./dom.js";

const MOST_CHIPS = 8;

// A hue of its own for each expert: steps by the golden angle are far apart for neighbours.
export const hue = (expert) => ((expert * 137.508) % 360).toFixed(1);

// What the box next to a token says: the experts of the chosen layer, and a picture of all layers.
export function expertTip(experts, look) {
  const visited = (experts[look.layer] ?? []).join(", ");
  const sentence = `Expert layer ${look.layer + 1}: experts ${visited}`;
  const caption = `${experts.length} layers down, ${look.experts} experts across`;
  const nodes = [element("p", {}, sentence), grid(experts, look)];
  return [...nodes, element("p", { class: "small" }, caption)];
}

// A row for each layer, a column for each expert, and a mark where the token went.
function grid(experts, look) {
  const cell = Math.max(1.2, Math.min(8, 320 / look.experts));
  const row = Math.max(3, Math.min(8, 240 / experts.length));
  const width = look.experts * cell;
  const size = { width, height: experts.length * row, class: "expert-grid", "aria-hidden": "true" };
  const picture = drawing("svg", size);
  experts.forEach((visited, layer) => {
    const place = { y: layer * row, height: row - 1 };
    const chosen = layer === look.layer ? "layer chosen" : "layer";
    picture.append(drawing("rect", { ...place, x: 0, width, class: chosen }));
    for (const expert of visited) {
      const mark = drawing("rect", { ...place, x: expert * cell, width: cell, class: "visited" });
      mark.style.setProperty("--hue", hue(expert));
      picture.append(mark);
    }
  });
  return picture;
}

// The line above the tokens: a slider over the layers, and a button for each frequent expert that
// leaves colour only on the tokens which visited it. `all` returns the tokens so far.
export function expertLegend(all, look, recolour) {
  const number = element("output", {});
  const chips = element("div", { class: "chips", role: "group", "aria-label": "Frequent experts" });
  const choose = (changes) => {
    Object.assign(look, changes);
    refresh();
    recolour();
  };
  const refresh = () => {
    number.textContent = `${look.layer + 1} of ${look.layers}`;
    const focused = document.activeElement?.dataset.expert;
    chips.replaceChildren(...frequent(all(), look.layer).map((row) => chip(row, look, choose)));
    if (focused !== undefined) {
      chips.querySelector(`[data-expert="${Number(focused)}"]`)?.focus();
    }
  };

  const slide = (event) => choose({ layer: Number(event.target.value), expert: null });
  const range = { type: "range", min: 0, max: look.layers - 1, value: look.layer };
  const slider = element("input", { ...range, oninput: slide });
  const label = element("label", {}, "Expert layer ", slider, number);
  return { node: element("div", { class: "legend" }, label, chips), refresh };
}

function chip([expert, share], look, choose) {
  const pressed = look.expert === expert;
  const title = `Expert ${expert}: ${Math.round(share * 100)} % of the tokens visited it`;
  const state = { title, "aria-pressed": String(pressed), "data-expert": expert };
  const click = () => choose({ expert: pressed ? null : expert });
  const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.setProperty("--hue", hue(expert));
  const part = element("span", { class: "small" }, `${Math.round(share * 100)} %`);
  const attributes = { type: "button", class: "expert", ...state, onclick: click };
  return element("button", attributes, swatch, `${expert}`, part);
}

// The experts of a layer that most tokens visited: [[expert, share of the tokens]].
function frequent(tokens, layer) {
  const counts = new Map();
  const read = tokens.filter((token) => token.experts);
  for (const token of read) {
    for (const expert of token.experts[layer] ?? []) {
      counts.set(expert, (counts.get(expert) ?? 0) + 1);
    }
  }
  const sorted = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  return sorted.slice(0, MOST_CHIPS).map(([expert, count]) => [expert, count / read.length]);
}
