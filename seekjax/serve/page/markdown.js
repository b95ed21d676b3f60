// Markdown as DOM nodes: headings, lists, quotes, tables, code. A text is cut into blocks of lines,
// and each block becomes elements; while an answer grows only its last blocks are made again.

import { copy, element, iconButton } from "./dom.js";
import { formula, inline } from "./inline.js";

const DEEPEST = 8; // lists and quotes within each other; deeper ones are paragraphs

const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( {1,4})(?=\S)|[ \t]*$| +)/;
const FORMULA_ENDS = { "\\[": "\\]", $$: "$$" };

// A place on the page that shows a growing text.
export class Markdown {
  constructor(root) {
    this.root = root;
    this.blocks = [];
  }

  // Show a text; blocks that have not changed keep their elements. Return how many there are.
  show(text) {
    const blocks = cut(text.split("\n"));
    const same = (block, index) => block.source === this.blocks[index]?.source;
    const first = blocks.findIndex((block, index) => !same(block, index));
    const kept = first < 0 ? blocks.length : first;

    // The common case: the last block is code and has more lines.
    const grown = blocks[kept];
    if (grown?.kind === "code" && this.blocks[kept]?.kind === "code") {
      grown.node = this.blocks[kept].node;
      grown.node.querySelector("code").textContent = grown.code;
      grown.node.querySelector(".language").textContent = grown.language;
    }
    for (const old of this.blocks.slice(kept)) {
      if (old.node !== grown?.node) {
        old.node.remove();
      }
    }
    this.blocks = [...this.blocks.slice(0, kept), ...blocks.slice(kept)];
    for (const block of this.blocks.slice(kept)) {
      block.node ??= build(block, 0);
      if (block.node.parentNode !== this.root) {
        this.root.append(block.node);
      }
    }
    return blocks.length;
  }

  // The text of one block as a screen reader should say it.
  spoken(index) {
    const block = this.blocks[index];
    return block.kind === "code" ? "Code." : block.node.textContent;
  }
}

// Cut lines into blocks {kind, source, ...}. A block that the text has not ended yet ends with it.
function cut(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const block = readBlock(lines, at);
    block.source = lines.slice(at, block.end).join("\n");
    blocks.push(block);
    at = block.end;
  }
  return blocks;
}

// Read the block that begins at a line: {kind, end: the line after it, ...}.
function readBlock(lines, at) {
  const line = lines[at];
  if (FENCE.test(line)) {
    return readCode(lines, at);
  }
  if (HEADING.test(line)) {
    return { kind: "heading", end: at + 1, level: line.match(HEADING)[1].length };
  }
  if (RULE.test(line)) {
    return { kind: "rule", end: at + 1 };
  }
  if (QUOTE.test(line)) {
    return { kind: "quote", end: endWhile(lines, at, (next) => QUOTE.test(next)) };
  }
  if (ITEM.test(line)) {
    return readList(lines, at);
  }
  if (FORMULA_ENDS[line.trim().slice(0, 2)]) {
    return readFormula(lines, at);
  }
  if (line.includes("|") && isTableRule(lines[at + 1] ?? "")) {
    return { kind: "table", end: endWhile(lines, at, (next) => next.includes("|")) };
  }
  return { kind: "paragraph", end: endWhile(lines, at, (next) => !beginsBlock(next)) };
}

// The first line after `at` that does not belong.
function endWhile(lines, at, belongs) {
  let end = at + 1;
  while (end < lines.length && belongs(lines[end])) {
    end += 1;
  }
  return end;
}

// Lines that end a paragraph. A number ends one only as "1.", so that a year at the beginning of
// a line does not.
function beginsBlock(line) {
  const item = line.match(ITEM);
  const list = item && item[3] && (!/\d/.test(item[2]) || /^1[.)]/.test(item[2]));
  const others = [FENCE, HEADING, RULE, QUOTE].some((pattern) => pattern.test(line));
  return line.trim() === "" || others || Boolean(list) || line.trim() === "\\[";
}

function readCode(lines, at) {
  const [, indent, fence, info] = lines[at].match(FENCE);
  const closes = (line) => {
    const text = line.trim();
    return text.length >= fence.length && text === fence[0].repeat(text.length);
  };
  const close = endWhile(lines, at, (line) => !closes(line));
  const strip = (line) => (line.startsWith(indent) ? line.slice(indent.length) : line);
  const code = lines.slice(at + 1, close).map(strip).join("\n");
  const language = info.trim().split(/\s/)[0];
  return { kind: "code", end: Math.min(close + 1, lines.length), code, language };
}

function readFormula(lines, at) {
  const close = FORMULA_ENDS[lines[at].trim().slice(0, 2)];
  const first = lines[at].trim().slice(2);
  let end = at;
  if (!first.includes(close)) {
    end = endWhile(lines, at, (line) => !line.includes(close));
  }
  if (end >= lines.length || !lines[end].trim().endsWith(close)) {
    return { kind: "paragraph", end: endWhile(lines, at, (next) => !beginsBlock(next)) };
  }
  return { kind: "formula", end: end + 1 };
}

// A list goes on over blank lines and over lines that are indented as its items are.
function readList(lines, at) {
  const marker = (line) => line.match(ITEM)?.[2].replace(/\d+/, "");
  const kind = marker(lines[at]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const line = lines[end];
    const level = indentOf(line) < indentOf(lines[at]) + 2;
    const begins = level && ITEM.test(line) && !RULE.test(line) && marker(line) === kind;
    const width = items.at(-1)?.width ?? 0;
    if (begins) {
      items.push(newItem(line));
    } else if (line.trim() === "" || indentOf(line) >= Math.min(width, 2)) {
      items.at(-1).lines.push(line.slice(Math.min(width, indentOf(line))));
    } else {
      break;
    }
    end += 1;
  }
  while (lines[end - 1].trim() === "") {
    end -= 1; // blank lines after the last item are not the list's
    items.at(-1).lines.pop();
  }
  const start = /\d/.test(lines[at]) ? Number.parseInt(lines[at].match(ITEM)[2], 10) : null;
  const ordered = kind === "." || kind === ")";
  return { kind: "list", end, items, start: ordered ? start : null };
}

function newItem(line) {
  const [all, indent, mark, space] = line.match(ITEM);
  const width = indent.length + mark.length + (space?.length ?? 1);
  return { width, lines: [line.slice(all.length)] };
}

const indentOf = (line) => line.length - line.trimStart().length;

function isTableRule(line) {
  const parts = cells(line);
  return line.includes("-") && parts.every((cell) => /^:?-+:?$/.test(cell));
}

// The cells of a table's line; only "\|" is a "|" within a cell.
function cells(line) {
  const parts = [""];
  for (let at = 0; at < line.length; at += 1) {
    if (line.startsWith("\\|", at)) {
      parts[parts.length - 1] += "|";
      at += 1;
    } else if (line[at] === "|") {
      parts.push("");
    } else {
      parts[parts.length - 1] += line[at];
    }
  }
  const trimmed = parts.map((part) => part.trim());
  const from = trimmed[0] === "" ? 1 : 0;
  const to = trimmed.length > 1 && trimmed.at(-1) === "" ? -1 : undefined;
  return trimmed.slice(from, to);
}

// The elements of a block, by its kind.
function build(block, depth) {
  return BUILD[block.kind](block, depth);
}

const BUILD = {
  paragraph: (block) => element("p", {}, ...inline(trimLines(block.source))),
  rule: () => element("hr"),
  code: (block) => codeBlock(block.code, block.language),

  // Headings of the answer stand below those of the page.
  heading: (block) => {
    const text = withoutClosing(block.source.replace(HEADING, "").trim());
    const level = Math.min(block.level + 2, 6);
    const name = { class: `h${block.level}` };
    return element(`h${level}`, name, ...inline(text));
  },

  quote: (block, depth) => {
    const lines = block.source.split("\n").map((line) => line.replace(QUOTE, ""));
    return element("blockquote", {}, ...nested(lines, depth));
  },

  list: (block, depth) => {
    const items = block.items.map((item) => listItem(item, depth));
    const tag = block.start === null ? "ul" : "ol";
    return element(tag, { start: block.start === 1 ? null : block.start }, ...items);
  },

  formula: (block) => {
    const lines = block.source.trim().slice(2, -2);
    return formula(lines.trim(), "pre");
  },

  table: (block) => {
    const [head, rule, ...rows] = block.source.split("\n").map(cells);
    const sides = rule.map((cell) => (cell.endsWith(":") ? (cell[0] === ":" ? "c" : "r") : null));
    const row = (tag, texts) => {
      const all = texts.map((text, at) => element(tag, { class: sides[at] }, ...inline(text)));
      return element("tr", {}, ...all);
    };
    const body = rows.map((texts) => row("td", texts));
    const parts = [element("thead", {}, row("th", head)), element("tbody", {}, ...body)];
    const attributes = { class: "table", tabindex: 0, role: "region", "aria-label": "Table" };
    return element("div", attributes, element("table", {}, ...parts));
  },
};

// "Title ##" is the title alone.
function withoutClosing(text) {
  let end = text.length;
  while (text[end - 1] === "#") {
    end -= 1;
  }
  return end === 0 || text[end - 1] === " " ? text.slice(0, end).trim() : text;
}

function listItem(item, depth) {
  const nodes = nested(item.lines, depth);
  const [only] = nodes;
  if (only?.tagName === "P" && !nodes.slice(1).some((node) => node.tagName === "P")) {
    nodes.splice(0, 1, ...only.childNodes);
  }
  return element("li", {}, ...nodes);
}

// The blocks within a list item or a quote.
function nested(lines, depth) {
  if (depth >= DEEPEST) {
    return [element("p", {}, ...inline(trimLines(lines.join("\n"))))];
  }
  return cut(lines).map((block) => build(block, depth + 1));
}

const trimLines = (text) => text.split("\n").map((line) => line.trim()).join("\n");

function codeBlock(code, language) {
  const text = element("code", {}, code);
  const click = (event) => copy(text.textContent, event.currentTarget);
  const name = element("span", { class: "language" }, language);
  const head = element("figcaption", {}, name, iconButton("copy", "Copy the code", click));
  const label = { tabindex: 0, role: "region", "aria-label": "Code" };
  return element("figure", { class: "code" }, head, element("pre", label, text));
}
