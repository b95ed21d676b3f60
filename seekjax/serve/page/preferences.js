// What the user set: kept in this browser, except the API key, which goes when the tab is closed.

const KEY = "seekjax.settings";
const SECRET = "seekjax.key";

const DEFAULTS = {
  system: "",
  temperature: "",
  top_p: "",
  max_tokens: "",
  seed: "",
  model: "",
  details: true,
  thinking: true,
  theme: "system",
  view: "plain",
};

export const preferences = { ...DEFAULTS, key: "" };

export function loadPreferences() {
  try {
    Object.assign(preferences, JSON.parse(localStorage.getItem(KEY) ?? "{}"));
  } catch {
    // What is stored there is not ours: keep the defaults.
  }
  preferences.key = sessionStorage.getItem(SECRET) ?? "";
}

export function savePreferences(changes) {
  Object.assign(preferences, changes);
  const { key, ...kept } = preferences;
  localStorage.setItem(KEY, JSON.stringify(kept));
  if (key) {
    sessionStorage.setItem(SECRET, key);
  } else {
    sessionStorage.removeItem(SECRET);
  }
}

// The body of a chat request. What the user left empty is left to the server.
export function requestBody(messages, model, run) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  if (run?.thinking) {
    body.thinking = { type: preferences.thinking ? "enabled" : "disabled" };
  }
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (preferences[name] !== "") {
      body[name] = Number(preferences[name]);
    }
  }
  if (preferences.details) {
    Object.assign(body, { logprobs: true, top_logprobs: 5 });
    body.return_drafted = Boolean(run?.draft);
    body.return_routed_experts = hasExperts(run);
  }
  return body;
}

export const hasExperts = (run) => Boolean(run?.experts && run.experts[0] > 0);
