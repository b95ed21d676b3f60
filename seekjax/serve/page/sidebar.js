// The list of chats, and on a narrow window the panel that holds it.

import { title } from "./chats.js";
import { byId, element, iconButton } from "./dom.js";

// `actions` are the page's: {open(chat), rename(chat, title), save(chat), remove(chat)}.
export class Sidebar {
  constructor(actions) {
    this.actions = actions;
    this.list = byId("chats");
    this.list.addEventListener("keydown", (event) => this.walk(event));
    byId("open-sidebar").addEventListener("click", () => this.slide(true));
    byId("close-sidebar").addEventListener("click", () => this.slide(false));
    byId("shade").addEventListener("click", () => this.slide(false));
    byId("sidebar").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isOver()) {
        event.stopPropagation();
        this.slide(false);
      }
    });
  }

  show(chats, current, running) {
    const rows = chats.map((chat) => this.row(chat, chat === current, running.has(chat.id)));
    const focused = this.list.contains(document.activeElement);
    this.list.replaceChildren(...rows);
    if (focused) {
      this.list.querySelector("[aria-current]")?.focus();
    }
  }

  row(chat, isCurrent, isRunning) {
    const open = () => {
      this.slide(false);
      this.actions.open(chat);
    };
    const state = { "aria-current": isCurrent ? "page" : null, class: "chat" };
    const label = element("span", { class: "title" }, title(chat));
    const dot = { class: "busy-dot", role: "img", "aria-label": "is being answered" };
    const busy = isRunning ? element("span", dot) : null;
    const button = element("button", { type: "button", ...state, onclick: open }, label, busy);
    const item = element("li", {}, button);
    if (isCurrent) {
      const edit = () => this.rename(chat, item);
      const tools = [
        iconButton("rename", "Rename this chat", edit),
        iconButton("save", "Save this chat as JSON", () => this.actions.save(chat)),
        iconButton("remove", "Delete this chat", () => this.actions.remove(chat)),
      ];
      button.addEventListener("dblclick", edit);
      item.append(element("span", { class: "row-tools" }, ...tools));
    }
    return item;
  }

  // A text field in the place of the title: Enter keeps the new title, Escape the old one.
  rename(chat, item) {
    const field = element("input", { "aria-label": "Title of the chat", class: "rename" });
    field.value = title(chat);
    let kept = true;
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === "Escape") {
        event.preventDefault();
        event.stopPropagation();
        kept = event.key === "Enter";
        field.blur();
      }
    });
    field.addEventListener("blur", () => {
      const text = field.value.trim();
      this.actions.rename(chat, kept && text ? text : chat.title);
    });
    item.replaceChildren(field);
    field.select();
  }

  // The arrows go from chat to chat.
  walk(event) {
    const buttons = [...this.list.querySelectorAll(".chat")];
    const at = buttons.indexOf(document.activeElement);
    const last = buttons.length - 1;
    const next = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
    if (at >= 0 && buttons[next]) {
      event.preventDefault();
      buttons[next].focus();
    }
  }

  isOver() {
    return document.body.classList.contains("sidebar-open");
  }

  slide(open) {
    if (open === this.isOver()) {
      return;
    }
    document.body.classList.toggle("sidebar-open", open);
    byId("shade").hidden = !open;
    byId("column").inert = open;
    byId("open-sidebar").setAttribute("aria-expanded", String(open));
    byId(open ? "close-sidebar" : "open-sidebar").focus();
  }
}
