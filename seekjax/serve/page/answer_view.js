// An answer of the thread: thinking, text or coloured tokens, how it ended, and what can be done.

import { announce, copy, element, iconButton, inPlace } from "./dom.js";
import { Markdown } from "./markdown.js";
import { hasExperts } from "./preferences.js";
import { versions } from "./question.js";
import { duration, Thinking } from "./thinking.js";
import { findTokens, tokensOf } from "./token_store.js";
import { hideTip, legend, TokenText, VIEWS } from "./tokens.js";

const RUNNING = ["waiting", "thinking", "answering"];

export class AnswerView {
  // `actions` are the page's: {again(node), showVersion(node, index), save(), run()}.
  constructor(node, version, actions) {
    this.node = node;
    this.version = version;
    this.actions = actions;
    this.thinking = new Thinking(node, actions.save);
    this.legend = element("div");
    this.body = element("div", { class: "body" });
    this.note = element("p", { class: "note" });
    this.failure = element("div", { class: "failure", role: "alert", hidden: true });
    this.tools = element("div", { class: "tools" });
    const parts = [this.legend, this.thinking.root, this.body, this.note, this.failure, this.tools];
    this.root = element("article", { class: "answer", "aria-label": "Answer" }, ...parts);
    this.show(this.canShow(node.view) ? node.view : "plain");
    this.ended = false;
    this.update();
    if (node.details && !tokensOf.has(node.id)) {
      findTokens(node.id).then((tokens) => tokens && this.restore());
    }
  }

  // The tokens of an earlier visit have come from the database.
  restore() {
    if (this.canShow(this.node.view)) {
      this.show(this.node.view);
      this.update();
    }
    this.drawTools();
  }

  get running() {
    return RUNNING.includes(this.node.state);
  }

  // A view needs tokens, and a run that has a draft or experts.
  canShow(view) {
    const { run } = this.node;
    const tokens = tokensOf.get(this.node.id);
    const some = Boolean(tokens) && (this.running || tokens.content.length > 0);
    const able = { plain: true, probability: some, draft: some && Boolean(run?.draft) };
    able.experts = some && hasExperts(run);
    return able[view] ?? false;
  }

  // Show the answer in a view, from its beginning.
  show(view) {
    hideTip();
    this.view = view;
    const thought = element("div");
    const said = element("div");
    this.thinking.text.replaceChildren(thought);
    this.body.replaceChildren(said);
    this.legend.replaceChildren();
    if (view === "plain") {
      this.texts = [new Markdown(thought), new Markdown(said)];
      this.key = null;
      return;
    }
    const { run } = this.node;
    const tokens = tokensOf.get(this.node.id);
    const [layers, experts] = run?.experts ?? [0, 0];
    const look = { layers, experts, layer: Math.floor(layers / 2), expert: null };
    this.texts = [
      new TokenText(thought, tokens.thinking, view, look),
      new TokenText(said, tokens.content, view, look),
    ];
    this.key = legend(view, tokens, look, () => this.texts.forEach((text) => text.recolour()));
    this.legend.replaceChildren(this.key.node);
  }

  // Bring the page to the node's state: called for every frame in which chunks have come.
  update() {
    const { node } = this;
    this.thinking.update();
    this.texts[0].show(node.thinking.trim());
    const blocks = this.texts[1].show(node.content);
    this.key?.refresh();
    this.say(this.running ? Math.max(0, blocks - 1) : blocks);
    this.body.classList.toggle("waiting", node.state === "waiting");
    this.root.setAttribute("aria-busy", String(this.running));
    if (!this.running && !this.ended) {
      this.end();
    }
  }

  // A screen reader says each paragraph when it is complete, not each token; nothing that was
  // there before this view.
  say(complete) {
    this.said ??= complete;
    for (; this.view === "plain" && this.said < complete; this.said += 1) {
      announce(this.texts[1].spoken(this.said));
    }
  }

  // The answer has ended: say how, and offer what can be done with it.
  end() {
    this.ended = true;
    const { node } = this;
    const notes = { stopped: "You stopped this answer.", failed: "" };
    const cut = node.finish === "length" ? "The answer has reached the limit of tokens." : "";
    this.note.textContent = notes[node.state] ?? cut;
    this.note.hidden = this.note.textContent === "";
    this.failure.hidden = node.state !== "failed";
    if (node.state === "failed") {
      const retry = () => this.actions.again(node);
      const button = element("button", { type: "button", class: "plain", onclick: retry }, "Retry");
      this.failure.replaceChildren(element("p", {}, node.error), button);
    }
    this.drawTools();
  }

  drawTools() {
    const { node, actions } = this;
    const copyAll = (event) => copy(node.content, event.currentTarget);
    const again = () => actions.again(node);
    const parts = [
      versions(this.version, (index) => actions.showVersion(node, index)),
      node.content && iconButton("copy", "Copy the answer", copyAll),
      node.state !== "failed" && iconButton("again", "Write another answer", again),
      this.views(),
      element("span", { class: "figures" }, figures(node, actions.run())),
    ];
    this.tools.replaceChildren(...parts.filter(Boolean));
  }

  // The switch between the text and the views of its tokens, if there are any.
  views() {
    const able = VIEWS.filter(([view]) => this.canShow(view));
    if (able.length < 2) {
      return null;
    }
    const name = `view-${this.node.id}`;
    const choose = (view) => {
      this.node.view = view;
      inPlace(this.tools, () => {
        this.show(view);
        this.update();
      });
      this.actions.save();
    };
    const options = able.map(([view, label]) => {
      const state = { type: "radio", name, value: view, checked: view === this.view };
      const input = element("input", { ...state, onchange: () => choose(view) });
      return element("label", {}, input, element("span", {}, label));
    });
    const title = element("legend", { class: "hidden" }, "Colour the tokens by");
    return element("fieldset", { class: "segments" }, title, ...options);
  }
}

// "312 tokens · 9.4 s · 33 tokens/s", and the checkpoint if it is another one than is served now.
function figures(node, run) {
  const parts = [];
  if (node.count) {
    parts.push(`${node.count.toLocaleString("en")} ${node.count === 1 ? "token" : "tokens"}`);
  }
  if (node.count && node.seconds.total) {
    parts.push(duration(node.seconds.total));
    const writing = node.seconds.last - node.seconds.first;
    const after = node.count - Math.max(1, node.firstCount ?? 1); // tokens after the first chunk
    if (after > 0 && writing > 0) {
      parts.push(`${(after / writing).toFixed(0)} tokens/s`);
    }
  }
  if (node.run && run && node.run.hash !== run.hash) {
    parts.push(`by ${node.run.name} ${node.run.hash.slice(0, 12)}`);
  }
  return parts.join(" · ");
}
