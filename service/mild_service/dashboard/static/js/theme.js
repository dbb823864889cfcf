// The theme: the system's until a person chooses. Charts ask for its colours and are told when it changes.

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

/** The value of a design token, such as colour("--kept"). */
export function colour(token) {
  return getComputedStyle(root).getPropertyValue(token).trim();
}

/** Call `listener` whenever colours change. */
export function onTheme(listener) {
  listeners.add(listener);
}

export function toggleTheme() {
  const shown = root.dataset.theme ?? (dark.matches ? "dark" : "light");
  root.dataset.theme = shown === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("mild-theme", root.dataset.theme);
  } catch {
    // it lasts as long as the page
  }
  tell();
}

function tell() {
  for (const listener of listeners) listener();
}

dark.addEventListener("change", tell);
