// Markdown within a line, as DOM nodes: code, emphasis, links, formulas. One pass over the text and
// a stack of open marks, so that the work grows with the length of the text however it is nested.

import { element } from "./dom.js";

const DEEPEST = 16; // open marks at once; further ones stay text
const WORD = /[\p{L}\p{N}]/u;
const ESCAPED = /[!-/:-@[-`{-~]/;

// What is recognised at its first character, tried in this order at every such character.
const LINK_TARGET = /\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+"[^"]*")?\s*\)/y;
const BARE_LINK = /https?:\/\/[^\s<>"'`|\\]+/y;
const ANGLE_LINK = /<(https?:\/\/[^\s<>]+)>/y;
const DOLLARS = /\$(?![\s$])[^$\n]{0,400}?[^\s$\\]\$(?!\d)/y;

// Return the nodes of a text of one or more lines.
export function inline(text) {
  return new Inline(text).parse();
}

// An address that a link may have, or "". Others, such as javascript:, make no link.
export function safeAddress(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:"].includes(url.protocol) ? url.href : "";
  } catch {
    return "";
  }
}

class Inline {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.out = []; // nodes and strings so far
    this.open = []; // marks that may still be closed: {mark, length, index in out}
    this.unclosed = new Set(); // lengths of backtick runs that have no second one
  }

  parse() {
    while (this.at < this.text.length) {
      const mark = this.text[this.at];
      const taken = this.readers[mark]?.call(this, mark);
      if (!taken) {
        this.push(mark, 1);
      }
    }
    return this.out.map((item) => (item.mark ? item.mark.repeat(item.length) : item));
  }

  readers = {
    "\\": this.readEscape,
    "`": this.readCode,
    "*": this.readEmphasis,
    _: this.readEmphasis,
    "~": this.readEmphasis,
    "[": this.readBracket,
    "]": this.readLink,
    "<": this.readAngle,
    h: this.readBareLink,
    $: this.readDollars,
    "\n": this.readLineEnd,
  };

  // Add an item for the next `length` characters; text joins the text before it.
  push(item, length) {
    const last = this.out.at(-1);
    if (typeof item === "string" && typeof last === "string") {
      this.out[this.out.length - 1] = last + item;
    } else {
      this.out.push(item);
    }
    this.at += length;
    return true;
  }

  match(pattern, at = this.at) {
    pattern.lastIndex = at;
    return pattern.exec(this.text);
  }

  readEscape() {
    const next = this.text[this.at + 1] ?? "";
    if (next === "(" || next === "[") {
      return this.readFormula(`\\${next}`, next === "(" ? "\\)" : "\\]");
    }
    return ESCAPED.test(next) && this.push(next, 2);
  }

  // A formula stays as it is written: nothing in it is emphasis.
  readFormula(begin, end) {
    const close = this.unclosed.has(end) ? -1 : this.text.indexOf(end, this.at + begin.length);
    if (close < 0) {
      this.unclosed.add(end);
      return this.push(begin, begin.length);
    }
    const source = this.text.slice(this.at + begin.length, close).trim();
    return this.push(formula(source), close + end.length - this.at);
  }

  readDollars() {
    if (this.text.startsWith("$$", this.at)) {
      return this.readFormula("$$", "$$");
    }
    const found = this.match(DOLLARS);
    return found && this.push(formula(found[0].slice(1, -1)), found[0].length);
  }

  readCode() {
    const run = this.match(/`+/y)[0];
    const close = this.unclosed.has(run) ? -1 : this.closingRun(run);
    if (close < 0) {
      this.unclosed.add(run);
      return this.push(run, run.length);
    }
    let source = this.text.slice(this.at + run.length, close).replaceAll("\n", " ");
    if (source.startsWith(" ") && source.endsWith(" ") && source.trim()) {
      source = source.slice(1, -1);
    }
    return this.push(element("code", {}, source), close + run.length - this.at);
  }

  // Where the next run of exactly as many backticks begins, or -1.
  closingRun(run) {
    const runs = /`+/g;
    runs.lastIndex = this.at + run.length;
    for (let found = runs.exec(this.text); found; found = runs.exec(this.text)) {
      if (found[0].length === run.length) {
        return found.index;
      }
    }
    return -1;
  }

  readAngle() {
    const found = this.match(ANGLE_LINK);
    return found && this.push(link(found[1], [found[1]]), found[0].length);
  }

  readBareLink() {
    const before = this.text[this.at - 1] ?? " ";
    const found = !WORD.test(before) && this.match(BARE_LINK);
    if (!found) {
      return false;
    }
    let address = found[0];
    while (".,;:!?*_~".includes(address.at(-1))) {
      address = address.slice(0, -1); // the sentence's, not the address's
    }
    if (address.endsWith(")") && !address.includes("(")) {
      address = address.slice(0, -1);
    }
    return this.push(link(address, [address]), address.length);
  }

  readLineEnd() {
    return this.push(element("br"), 1);
  }

  readBracket() {
    return this.pushMark("[", 1);
  }

  readLink() {
    const opener = this.open.findLastIndex((item) => item.mark === "[");
    const target = opener >= 0 && this.match(LINK_TARGET, this.at + 1);
    const address = target ? safeAddress(target[1]) : "";
    if (opener >= 0 && !address) {
      this.open.splice(opener, 1);
    }
    if (!address) {
      return false;
    }

    // What is inside becomes the link; a link has no link inside, so earlier brackets are text.
    const begin = this.open[opener].index;
    this.open.length = opener;
    this.open = this.open.filter((item) => item.mark !== "[");
    const inside = this.out.splice(begin).slice(1).map(asNode);
    this.dropPictureMark();
    return this.push(link(address, inside), 1 + target[0].length);
  }

  // "![text](address)" is a picture, which is not loaded: it becomes a link without the "!".
  dropPictureMark() {
    const last = this.out.at(-1);
    if (typeof last === "string" && last.endsWith("!")) {
      this.out[this.out.length - 1] = last.slice(0, -1);
    }
  }

  // *, ** and *** and the same of _ and ~: close what is open, else open.
  readEmphasis(mark) {
    const run = this.run(mark);
    const before = this.text[this.at - 1] ?? " ";
    const after = this.text[this.at + run] ?? " ";
    const inWord = mark === "_" && WORD.test(before) && WORD.test(after);
    if (run > 3 || inWord || (mark === "~" && run !== 2)) {
      return this.push(mark.repeat(run), run);
    }
    this.at += run;
    const opens = /\S/.test(after);
    const closes = /\S/.test(before);
    const rest = closes ? this.close(mark, run, opens) : run;
    if (rest > 0 && opens) {
      return this.pushMark(mark, rest, 0, { run, closes });
    }
    return rest === 0 || this.push(mark.repeat(rest), 0);
  }

  run(mark) {
    let length = 1;
    while (this.text[this.at + length] === mark) {
      length += 1;
    }
    return length;
  }

  // Close open marks with a run; return how many of its characters are left over.
  close(mark, run, opens) {
    // CommonMark's rule 9: "**a*b" has no emphasis, since its last mark may as well open one.
    const fits = (item) => {
      const both = item.closes || opens;
      return !both || (item.run + run) % 3 !== 0 || (item.run % 3 === 0 && run % 3 === 0);
    };
    let rest = run;
    while (rest > 0) {
      const at = this.open.findLastIndex((item) => item.mark === mark && fits(item));
      if (at < 0) {
        return rest;
      }
      const opener = this.open[at];
      const used = rest >= 2 && opener.length >= 2 ? 2 : 1;
      if (mark === "~" && used === 1) {
        return rest;
      }
      this.wrap(opener, mark === "~" ? "del" : used === 2 ? "strong" : "em");
      opener.length -= used;
      this.open.length = opener.length > 0 ? at + 1 : at;
      if (opener.length === 0) {
        this.out.splice(opener.index, 1);
      }
      rest -= used;
    }
    return 0;
  }

  // Put everything after an open mark into an element.
  wrap(opener, tag) {
    const inside = this.out.splice(opener.index + 1).map(asNode);
    this.out.push(element(tag, {}, ...inside));
  }

  // A mark that may be closed later: an item of its own in `out`, which is text if it is not.
  pushMark(mark, length, step = length, run = {}) {
    if (this.open.length >= DEEPEST) {
      return this.push(mark.repeat(length), step);
    }
    const item = { mark, length, index: this.out.length, ...run };
    this.open.push(item);
    return this.push(item, step);
  }
}

const asNode = (item) => (item.mark ? item.mark.repeat(item.length) : item);

function link(address, inside) {
  const href = safeAddress(address);
  if (!href) {
    return element("span", {}, ...inside);
  }
  return element("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...inside);
}

export function formula(source, tag = "span") {
  return element(tag, { class: "formula", translate: "no" }, source);
}
