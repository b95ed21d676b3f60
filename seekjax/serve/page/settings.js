// The dialog of settings: filled from the preferences, checked, and kept when it is closed.

import { byId, element } from "./dom.js";
import { preferences, savePreferences } from "./preferences.js";

// What a field must hold if it holds anything: name, lowest, highest, whole numbers alone.
const NUMBERS = [
  ["temperature", "Temperature", 0, 2, false],
  ["top_p", "Top-p", 0, 1, false],
  ["max_tokens", "Max tokens", 1, Infinity, true],
  ["seed", "Seed", 0, 2 ** 53 - 1, true],
];

// `changed` is called after the settings were kept.
export function setUpSettings(changed) {
  const dialog = byId("settings");
  const form = byId("settings-form");
  form.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) {
      dialog.close(); // a click outside the form
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const values = read(form);
    const sentence = mistake(values);
    byId("settings-error").textContent = sentence;
    byId("settings-error").hidden = sentence === "";
    if (sentence === "") {
      savePreferences(values);
      dialog.close();
      changed();
    }
  });
}

export function openSettings(entries, focus = "") {
  const form = byId("settings-form");
  const options = entries.map(({ id }) => element("option", { value: id }, id));
  form.elements.model.replaceChildren(...options);
  byId("model-field").hidden = entries.length < 2;
  for (const field of form.elements) {
    if (field.type === "checkbox") {
      field.checked = preferences[field.name];
    } else if (field.type === "radio") {
      field.checked = preferences[field.name] === field.value;
    } else if (field.name) {
      field.value = preferences[field.name];
    }
  }
  if (form.elements.model.selectedIndex < 0) {
    form.elements.model.selectedIndex = 0;
  }
  byId("settings-error").hidden = true;
  byId("settings").showModal();
  if (focus) {
    form.elements[focus].focus();
  }
}

function read(form) {
  const values = Object.fromEntries(new FormData(form));
  for (const [name] of NUMBERS) {
    // A number field is empty if it holds no number; the browser shows that next to it.
    values[name] = form.elements[name].validity.badInput ? "?" : values[name].trim();
  }
  values.details = form.elements.details.checked;
  values.key = values.key.trim();
  return values;
}

// The sentence about the first setting that cannot be, or "".
function mistake(values) {
  for (const [name, label, lowest, highest, whole] of NUMBERS) {
    const number = Number(values[name]);
    const fits = number >= lowest && number <= highest && (!whole || Number.isInteger(number));
    if (values[name] !== "" && !fits) {
      const kind = whole ? "a whole number" : "a number";
      const upTo = Number.isFinite(highest) ? ` to ${highest}` : " or more";
      return `${label} must be ${kind} of ${lowest}${upTo}, or empty for the server's default.`;
    }
  }
  return "";
}
