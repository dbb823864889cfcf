// Behaviour of every page: theme, copy buttons, tabs, relative times.

import { enableCopy } from "./copy.js";
import { enableTabs } from "./tabs.js";
import { updateTimes } from "./times.js";
import { toggleTheme } from "./theme.js";

const toggle = document.querySelector("[data-theme-toggle]");
toggle.hidden = false;
toggle.addEventListener("click", toggleTheme);
enableTabs();
updateTimes();
enableCopy();

// A menu closes with Escape, and when something else is clicked.
const menu = document.querySelector("details.menu");
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && menu?.open) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
document.addEventListener("click", (event) => {
  if (menu?.open && !menu.contains(event.target)) menu.open = false;
});
