// Chats: a tree of questions and answers each, of which one path is shown, and where they are kept.
//
// An answer that is written again, and a question that is edited, become further children of the
// same node. So every version stays, with all that followed it.
//
//   chat   {id, title, updated, nodes: {id: node}}
//   node   {id, role, parent, children: [ids], shown: index of the child on the shown path, ...}
//   "root" is the node before the first question.

const PREFIX = "seekjax.chat.";

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newChat() {
  const root = { id: "root", children: [], shown: 0 };
  return { id: newId(), title: "", updated: Date.now(), nodes: { root } };
}

// Add a node below another, and show it.
export function addNode(chat, parentId, fields) {
  const parent = chat.nodes[parentId];
  const node = { id: newId(), parent: parentId, children: [], shown: 0, ...fields };
  chat.nodes[node.id] = node;
  parent.shown = parent.children.push(node.id) - 1;
  return node;
}

// The nodes that are shown, from the first question to the last answer.
export function path(chat) {
  const nodes = [];
  let node = chat.nodes.root;
  while (node.children.length > 0) {
    node = chat.nodes[node.children[node.shown]];
    nodes.push(node);
  }
  return nodes;
}

// Which version of how many a node is: {index, count}.
export function version(chat, node) {
  const siblings = chat.nodes[node.parent].children;
  return { index: siblings.indexOf(node.id), count: siblings.length };
}

export function showVersion(chat, node, index) {
  chat.nodes[node.parent].shown = index;
}

// The messages that the server gets for an answer below `node`: earlier thinking is left out, as
// the models were trained.
export function messagesUpTo(chat, node, system) {
  const messages = [];
  for (let at = node; at.id !== "root"; at = chat.nodes[at.parent]) {
    if (at.role === "assistant" && !at.content) {
      at = chat.nodes[at.parent]; // a failure: without its question, turns still alternate
    } else {
      messages.unshift({ role: at.role, content: at.content });
    }
  }
  if (system) {
    messages.unshift({ role: "system", content: system });
  }
  return messages;
}

export function title(chat) {
  return chat.title || "New chat";
}

// A chat is named after its first question until the user names it.
export function titleFrom(question) {
  const line = question.trim().split("\n")[0];
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

// What a file of an exported chat holds: the shown path as messages, and all versions.
export function exported(chat) {
  const messages = path(chat).map((node) => ({
    role: node.role,
    content: node.content,
    ...(node.thinking && { reasoning_content: node.thinking }),
    ...(node.run && { run: node.run }),
    ...(node.usage && { usage: node.usage }),
  }));
  const updated = new Date(chat.updated).toISOString();
  return { format: "seekjax chat 1", title: title(chat), updated, messages, nodes: chat.nodes };
}

// Every chat is one entry, so that two tabs which write different chats do not disturb each other.
export function saveChat(chat) {
  localStorage.setItem(PREFIX + chat.id, JSON.stringify(chat));
}

export function forgetChat(chat) {
  localStorage.removeItem(PREFIX + chat.id);
}

export function isChatKey(key) {
  return key === null || key.startsWith(PREFIX);
}

// All chats that this browser keeps, the latest first.
export function loadChats() {
  const chats = [];
  for (const key of Object.keys(localStorage)) {
    const chat = key.startsWith(PREFIX) && parse(localStorage.getItem(key));
    if (chat?.nodes?.root) {
      chats.push(chat);
    }
  }
  return chats.sort((a, b) => b.updated - a.updated);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not written by this page
  }
}

// An answer that was being written when its tab was closed has ended there.
export function endUnfinished(chat) {
  for (const node of Object.values(chat.nodes)) {
    if (["waiting", "thinking", "answering"].includes(node.state)) {
      node.state = "stopped";
    }
  }
}
