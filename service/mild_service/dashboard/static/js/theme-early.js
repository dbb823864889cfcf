// Sets a saved theme before the page is drawn, to avoid a flash. localStorage may be forbidden.
try {
  const saved = localStorage.getItem("mild-theme");
  if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;
} catch {
  // use the system's theme
}
