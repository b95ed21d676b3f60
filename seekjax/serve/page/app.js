// The page: which chat is open, what is being answered, and what the keys and buttons do.

import { Answer } from "./answer.js";
import { AnswerView } from "./answer_view.js";
import * as chats from "./chats.js";
import { announce, byId, drawIcons, element, toast } from "./dom.js";
import { loadPreferences, preferences, requestBody, savePreferences } from "./preferences.js";
import { questionView } from "./question.js";
import { drawRun, drawWelcome } from "./run.js";
import { chat as askServer, models, ServerError } from "./server.js";
import { openSettings, setUpSettings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { findTokens, forgetTokens, keepTokens, tokensOf } from "./token_store.js";

const SAVE_EVERY = 1000; // milliseconds, while an answer arrives

const state = {
  chats: [],
  chat: chats.newChat(), // the open one; in the list from its first question on
  entries: [], // of /v1/models
  running: new Map(), // id of a chat -> AbortController of its answer
  views: new Map(), // id of a node -> its AnswerView, of the open chat
};

const sidebar = new Sidebar({ open, rename, save: download, remove });
const entry = () => state.entries.find(({ id }) => id === preferences.model) ?? state.entries[0];
const run = () => entry()?.run ?? null;

// The thread

function draw() {
  const nodes = chats.path(state.chat);
  state.views.clear();
  const actions = { edit, again, showVersion, save: () => keep(state.chat), run };
  const drawn = nodes.map((node) => {
    const version = chats.version(state.chat, node);
    if (node.role === "user") {
      return questionView(node, version, actions);
    }
    const view = new AnswerView(node, version, actions);
    state.views.set(node.id, view);
    return view.root;
  });
  byId("thread").replaceChildren(...drawn);
  byId("welcome").hidden = nodes.length > 0;
  drawControls();
}

function drawControls() {
  const busy = state.running.has(state.chat.id);
  const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
  byId("send").disabled = byId("question").value.trim() === "";
  if (hadFocus) {
    byId("question").focus();
  }
  byId("thinking").setAttribute("aria-pressed", String(preferences.thinking));
  byId("thinking").hidden = !run()?.thinking;
  const title = chats.title(state.chat);
  document.title = title === "New chat" ? "seekjax" : `${title} · seekjax`;
  sidebar.show(state.chats, state.chat, state.running);
}

function open(chat) {
  state.chat = chat;
  draw();
  toEnd();
  if (matchMedia("(hover: hover)").matches) {
    byId("question").focus(); // on a phone this would open the keyboard
  }
}

function showVersion(node, index) {
  chats.showVersion(state.chat, node, index);
  keep(state.chat);
  draw();
}

// Asking and answering

function ask(text) {
  const { chat } = state;
  if (!state.chats.includes(chat)) {
    chat.title = chats.titleFrom(text);
    state.chats.unshift(chat);
  }
  const last = chats.path(chat).at(-1)?.id ?? "root";
  answer(chat, chats.addNode(chat, last, { role: "user", content: text }));
}

function edit(node, text) {
  answer(state.chat, chats.addNode(state.chat, node.parent, { role: "user", content: text }));
}

function again(node) {
  answer(state.chat, state.chat.nodes[node.parent]);
}

// Have the server answer a question, and show the answer while it arrives.
async function answer(chat, question) {
  state.running.get(chat.id)?.abort();
  const controller = new AbortController();
  const fields = { role: "assistant", model: entry()?.id, run: run(), view: preferences.view };
  const node = chats.addNode(chat, question.id, fields);
  const reply = new Answer(node);
  chat.updated = Date.now();
  state.chats.sort((a, b) => b.updated - a.updated);
  state.running.set(chat.id, controller);
  draw();
  toEnd();
  announce("Sent");

  try {
    await stream(chat, question, reply, controller.signal);
    reply.end("done");
  } catch (failure) {
    reply.end(failure.name === "AbortError" ? "stopped" : "failed", sentenceOf(failure));
    if (failure.status === 401) {
      openSettings(state.entries, "key");
    }
  }

  if (state.running.get(chat.id) === controller) {
    state.running.delete(chat.id);
  }
  keep(chat);
  following(() => state.views.get(node.id)?.update());
  drawControls();
  announce({ done: "The answer is complete", stopped: "Stopped" }[node.state] ?? "");
}

async function stream(chat, question, reply, signal) {
  if (!entry()) {
    await findModels();
  }
  const messages = chats.messagesUpTo(chat, question, preferences.system.trim());
  const body = requestBody(messages, entry().id, run());
  reply.node.run = run();
  let saved = performance.now();
  for await (const chunk of askServer(body, preferences.key, signal)) {
    reply.take(chunk);
    refresh(reply.node);
    checkRun(chunk, reply.node);
    if (performance.now() - saved > SAVE_EVERY) {
      saved = performance.now();
      keep(chat);
    }
  }
}

// Errors of this page itself are shown too, rather than an answer that never ends.
function sentenceOf(failure) {
  return failure instanceof ServerError ? failure.message : `The page failed: ${failure.message}`;
}

// Bring an answer up to date with the next frame; many chunks may come in between.
const due = new Set();
function refresh(node) {
  if (due.size === 0) {
    requestAnimationFrame(() => {
      following(() => due.forEach((other) => state.views.get(other.id)?.update()));
      due.clear();
    });
  }
  due.add(node);
}

function stop() {
  state.running.get(state.chat.id)?.abort();
}

// Keeping chats

function keep(chat) {
  try {
    if (state.chats.includes(chat)) {
      chats.saveChat(chat);
    }
  } catch {
    notice("This browser's storage is full: save chats as JSON, then delete some.");
  }
}

function rename(chat, title) {
  chat.title = title;
  keep(chat);
  drawControls();
}

function remove(chat) {
  state.running.get(chat.id)?.abort();
  const at = state.chats.indexOf(chat);
  state.chats.splice(at, 1);
  chats.forgetChat(chat);
  const ids = Object.keys(chat.nodes);
  ids.forEach((id) => findTokens(id).then(() => forgetTokens(id))); // found, for Undo
  open(state.chats[at] ?? state.chats[at - 1] ?? chats.newChat());
  toast(`“${chats.title(chat)}” was deleted.`, "Undo", () => {
    state.chats.splice(at, 0, chat);
    ids.filter((id) => tokensOf.has(id)).forEach(keepTokens);
    keep(chat);
    open(chat);
  });
}

// Save a chat as a file. The address of the file lives in this page and goes nowhere.
function download(chat) {
  const text = JSON.stringify(chats.exported(chat), null, 2);
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const name = chats.title(chat).replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  element("a", { href: address, download: `${name || "chat"}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// Another tab has changed a chat. One that is being answered here is newer here.
function takeFromOtherTab(event) {
  if (!chats.isChatKey(event.key)) {
    return;
  }
  const mine = new Map(state.chats.map((chat) => [chat.id, chat]));
  state.chats = chats.loadChats().map((chat) => {
    return state.running.has(chat.id) ? mine.get(chat.id) : chat;
  });
  const same = state.chats.find((chat) => chat.id === state.chat.id);
  if (same && same !== state.chat) {
    state.chat = same;
    draw();
  }
  drawControls();
}

// The server

async function findModels() {
  try {
    state.entries = await models(preferences.key);
    notice("");
  } catch (failure) {
    notice(sentenceOf(failure), findModels);
    if (failure.status === 401 && !byId("settings").open) {
      openSettings(state.entries, "key");
    }
  }
  drawRun(entry());
  drawWelcome(entry());
  drawControls();
}

// The server may have been started again with another checkpoint under this page. The system
// fingerprint of an answer is "fp_" and the beginning of the hash.
function checkRun(chunk, node) {
  const begin = chunk.system_fingerprint?.replace("fp_", "");
  if (begin && node.run?.hash && !node.run.hash.startsWith(begin)) {
    node.run = { name: chunk.model, hash: begin };
    findModels();
  }
}

function notice(sentence, retry) {
  const again = retry && element("button", { type: "button", class: "plain" }, "Try again");
  again?.addEventListener("click", retry);
  byId("notice").replaceChildren(...[element("p", {}, sentence), again].filter(Boolean));
  byId("notice").hidden = sentence === "";
}

// Scrolling: the page follows a growing answer only while its end is in sight.

function following(change) {
  const follow = isAtEnd();
  change();
  if (follow) {
    toEnd();
  }
}

function isAtEnd() {
  const main = byId("main");
  return main.scrollHeight - main.scrollTop - main.clientHeight < 48;
}

function toEnd() {
  byId("main").scrollTop = byId("main").scrollHeight;
}

// Keys and buttons

function submit(event) {
  event?.preventDefault();
  const text = byId("question").value.trim();
  if (text && !state.running.has(state.chat.id)) {
    byId("question").value = "";
    fit();
    ask(text);
  }
}

// The field grows with its text, up to a third of the window (style.css).
function fit() {
  const field = byId("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
  byId("send").disabled = field.value.trim() === "";
}

function pageKeys(event) {
  const writing = event.target.matches("input, textarea, select");
  const inDialog = byId("settings").open;
  if (event.key === "Escape" && !inDialog) {
    stop();
  } else if (event.key === "/" && !writing && !inDialog && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    byId("question").focus();
  }
}

function questionKeys(event) {
  // While an input method composes a word, Enter belongs to it.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    submit(event);
  }
}

function settingsChanged() {
  drawTheme();
  findModels();
  drawControls();
}

function drawTheme() {
  document.documentElement.dataset.theme = preferences.theme;
}

function start() {
  loadPreferences();
  drawTheme();
  drawIcons();
  setUpSettings(settingsChanged);
  state.chats = chats.loadChats();
  state.chats.forEach(chats.endUnfinished);

  byId("composer").addEventListener("submit", submit);
  byId("question").addEventListener("keydown", questionKeys);
  byId("question").addEventListener("input", fit);
  byId("stop").addEventListener("click", stop);
  byId("new-chat").addEventListener("click", () => {
    sidebar.slide(false);
    open(chats.newChat());
  });
  byId("open-settings").addEventListener("click", () => openSettings(state.entries));
  byId("thinking").addEventListener("click", () => {
    savePreferences({ thinking: !preferences.thinking });
    drawControls();
  });
  byId("latest").addEventListener("click", toEnd);
  byId("main").addEventListener("scroll", () => (byId("latest").hidden = isAtEnd()));
  document.addEventListener("keydown", pageKeys);
  addEventListener("storage", takeFromOtherTab);
  addEventListener("pagehide", () => state.running.size && keep(state.chat));

  open(state.chats[0] ?? state.chat);
  findModels();
}

start();
