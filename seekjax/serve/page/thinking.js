// The thinking above an answer: open while it arrives, folded when the answer begins, and from then
// on as the user leaves it. It stays open if no answer follows, and is not drawn without a text.

import { element, setAttribute } from "./dom.js";

export class Thinking {
  // `toggled` is called after the user opened or folded it, to keep that with the chat.
  constructor(node, toggled) {
    this.node = node;
    this.text = element("div", { class: "thinking-text", id: `thinking-${node.id}` });
    this.label = element("span");
    const flip = () => {
      node.open = !this.isOpen();
      this.update();
      toggled();
    };
    const controls = { "aria-controls": this.text.id, "aria-expanded": "true" };
    const attributes = { type: "button", class: "thinking-button", ...controls, onclick: flip };
    this.button = element("button", attributes, this.label);
    this.root = element("section", { class: "thinking", "aria-label": "Thinking" });
    this.root.append(this.button, this.text);
    this.update();
  }

  isOpen() {
    return this.node.open ?? (this.node.state === "thinking" || this.node.content === "");
  }

  update() {
    const { node } = this;
    this.root.hidden = node.thinking.trim() === "";
    this.text.hidden = !this.isOpen();
    this.label.textContent = sentence(node);
    setAttribute(this.button, "aria-expanded", String(this.isOpen()));
    this.root.classList.toggle("busy", node.state === "thinking");
  }
}

// "Thinking", then "Thought for 12 s · 345 tokens".
function sentence(node) {
  const tokens = node.usage?.completion_tokens_details?.reasoning_tokens;
  const count = tokens ? ` · ${tokens.toLocaleString("en")} tokens` : "";
  if (node.state === "thinking") {
    return "Thinking";
  }
  const seconds = node.seconds.thinking;
  return seconds === undefined ? `Thoughts${count}` : `Thought for ${duration(seconds)}${count}`;
}

export function duration(seconds) {
  if (seconds < 10) {
    return `${Math.max(0.1, seconds).toFixed(1)} s`;
  }
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
