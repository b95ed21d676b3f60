// Which checkpoint is served: in the head of the page, and in full before the first question.

import { byId, element } from "./dom.js";

const count = (number) => number.toLocaleString("en");

export function drawRun(entry) {
  const run = entry?.run;
  const parts = [element("span", { class: "name" }, run?.name ?? entry?.id ?? "no model")];
  if (run?.step !== undefined && run.step !== null) {
    parts.push(element("span", { class: "step" }, `step ${count(run.step)}`));
  }
  if (run?.hash) {
    const title = `The hash of the served weights: ${run.hash}`;
    parts.push(element("code", { title }, run.hash.slice(0, 12)));
  }
  byId("run").replaceChildren(...parts);
}

export function drawWelcome(entry) {
  const run = entry?.run;
  const rows = [];
  if (run?.context) {
    rows.push(["Context", `${count(run.context)} tokens`]);
  }
  if (run?.experts && run.experts[0] > 0) {
    const [layers, experts, chosen] = run.experts;
    rows.push(["Experts", `${layers} layers of ${count(experts)}, ${chosen} for each token`]);
  }
  if (run) {
    rows.push(["Draft", run.draft ? "by the prediction module" : "none"]);
  }
  const list = rows.map(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]);
  const name = run?.name ?? entry?.id;
  const head = element("h2", {}, name ? `Ask ${name}` : "Waiting for the server");
  byId("welcome").replaceChildren(head, element("dl", {}, ...list.flat()));
}
