// An answer while it arrives: chunks of the stream go in, and the node of the chat grows.

import { keepTokens, tokensOf } from "./token_store.js";
import { TokenTexts } from "./token_texts.js";

export class Answer {
  constructor(node) {
    this.node = node;
    this.began = performance.now();
    this.texts = new TokenTexts();
    this.tokens = { thinking: [], content: [] };
    this.early = [];
    tokensOf.set(node.id, this.tokens);
    Object.assign(node, { state: "waiting", thinking: "", content: "", count: 0, seconds: {} });
  }

  // Take one chunk. Chunks after the last text carry the reason of the end and the usage.
  take(chunk) {
    const choice = chunk.choices?.[0];
    if (chunk.usage) {
      this.node.usage = chunk.usage;
      this.node.count = chunk.usage.completion_tokens;
    }
    if (!choice) {
      return;
    }
    this.takeText(choice.delta ?? {});
    this.takeTokens(choice);
    if (choice.finish_reason) {
      this.node.finish = choice.finish_reason;
    }
  }

  takeText(delta) {
    const { node } = this;
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    const said = delta.content ?? "";
    if (thought) {
      node.thinking += thought;
      this.enter("thinking");
    }
    if (said) {
      node.content += said;
      this.enter("answering");
    }
  }

  // The state goes forward alone: from waiting to thinking to answering.
  enter(state) {
    const { node } = this;
    const now = this.seconds();
    node.seconds.first ??= now;
    if (state === "thinking" && node.state === "waiting") {
      node.state = "thinking";
    }
    if (state === "answering" && node.state !== "answering") {
      node.state = "answering";
      node.seconds.thinking = now - node.seconds.first;
    }
    node.seconds.last = now;
  }

  // Tokens belong to the text they came with; those before the first text, to what follows.
  takeTokens(choice) {
    const entries = choice.logprobs?.content ?? [];
    entries.forEach((entry, index) => {
      this.early.push({
        text: this.texts.next(entry),
        name: entry.token,
        logProb: entry.logprob,
        top: (entry.top_logprobs ?? []).map(alternative),
        drafted: choice.drafted?.[index] ?? false,
        experts: choice.routed_experts?.[index] ?? null,
      });
    });
    if (this.node.state !== "waiting") {
      const list = this.node.state === "answering" ? "content" : "thinking";
      this.tokens[list].push(...this.early.splice(0));
    }
    this.node.count += entries.length;
    if (this.node.seconds.first !== undefined) {
      this.node.firstCount ??= this.node.count;
    }
  }

  // End in a state: "done", "stopped" by the user, or "failed" with the server's sentence.
  end(state, error = "") {
    const { node } = this;
    if (node.state === "thinking") {
      node.seconds.thinking = this.seconds() - node.seconds.first;
    }
    node.seconds.total = this.seconds();
    node.state = state;
    node.error = error;
    node.details = this.tokens.content.length + this.tokens.thinking.length > 0;
    if (node.details) {
      keepTokens(node.id);
    }
  }

  seconds() {
    return (performance.now() - this.began) / 1000;
  }
}

const alternative = (entry) => ({ text: entry.token, logProb: entry.logprob });
