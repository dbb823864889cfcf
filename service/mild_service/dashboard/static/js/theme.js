// The theme: the system's unless the user chooses one. Charts read its colours and are notified of changes.

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
  const current = root.dataset.theme ?? (dark.matches ? "dark" : "light");
  root.dataset.theme = current === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("mild-theme", root.dataset.theme);
  } catch {
    // the choice lasts until the page is left
  }
  notify();
}

function notify() {
  for (const listener of listeners) listener();
}

dark.addEventListener("change", notify);
