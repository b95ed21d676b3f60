// The tokens of each answer, by the id of its node: {thinking: [token], content: [token]}, a token
// being {text, name, logProb, top: [{text, logProb}], drafted, experts}. Its name is the text that
// the server gives it, also where it is part of a character. Tokens are many times the size of the
// text, so they are kept in the browser's database and not with the chats. Where there is no
// database, as in some private windows, they are kept until the page is left.

const NAME = "seekjax";
const STORE = "tokens";

export const tokensOf = new Map();

// The database, or null.
const database = new Promise((resolve) => {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => resolve(null);
});

// Return the tokens of an answer, also from before this page was loaded, or undefined.
export async function findTokens(id) {
  const tokens = tokensOf.get(id) ?? (await ask("readonly", (store) => store.get(id)));
  if (tokens) {
    tokensOf.set(id, tokens);
  }
  return tokens;
}

export function keepTokens(id) {
  return ask("readwrite", (store) => store.put(tokensOf.get(id), id));
}

export function forgetTokens(id) {
  return ask("readwrite", (store) => store.delete(id));
}

// Ask the database for one thing. What it cannot do is undefined, as it is not needed to chat.
async function ask(mode, question) {
  const open = await database;
  if (open === null) {
    return undefined;
  }
  return new Promise((resolve) => {
    const request = question(open.transaction(STORE, mode).objectStore(STORE));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(undefined);
  });
}
