// Before anything is drawn, so that a chosen theme does not flash. localStorage may be forbidden.
try {
  const chosen = localStorage.getItem("mild-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // the system's theme then
}
