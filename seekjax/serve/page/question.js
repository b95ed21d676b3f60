// A question of the thread: its text, copying, editing, and its versions.

import { copy, element, iconButton } from "./dom.js";

// `actions` are the page's: {edit(node, text), showVersion(node, index)}.
export function questionView(node, version, actions) {
  const text = element("div", { class: "question-text" }, node.content);
  const box = element("article", { class: "question", "aria-label": "Your question" }, text);
  const close = () => box.replaceChildren(...parts);
  const edit = () => box.replaceChildren(editor(node, actions, close));
  const tools = element(
    "div",
    { class: "tools" },
    versions(version, (index) => actions.showVersion(node, index)),
    iconButton("copy", "Copy the question", (event) => copy(node.content, event.currentTarget)),
    iconButton("edit", "Edit the question", edit),
  );
  const parts = [text, tools];
  box.append(tools);
  return box;
}

// A text field in the question's place. Enter or the button asks again, Escape leaves it.
function editor(node, actions, close) {
  const field = element("textarea", { "aria-label": "Edited question", rows: 3 });
  field.value = node.content;
  const send = () => field.value.trim() && actions.edit(node, field.value.trim());
  const keys = (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  };
  field.addEventListener("keydown", keys);
  const cancel = element("button", { type: "button", class: "plain", onclick: close }, "Cancel");
  const ask = element("button", { type: "button", class: "main", onclick: send }, "Ask again");
  queueMicrotask(() => field.focus());
  return element("div", { class: "editor" }, field, element("div", { class: "row" }, cancel, ask));
}

// "‹ 2/3 ›", or nothing if there is one version.
export function versions({ index, count }, show) {
  if (count < 2) {
    return null;
  }
  const previous = iconButton("left", "Previous version", () => show(index - 1));
  const next = iconButton("right", "Next version", () => show(index + 1));
  previous.disabled = index === 0;
  next.disabled = index === count - 1;
  const label = `Version ${index + 1} of ${count}`;
  const number = element("span", { "aria-label": label, role: "img" }, `${index + 1}/${count}`);
  return element("span", { class: "versions" }, previous, number, next);
}
