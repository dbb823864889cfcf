// Announces changes to screen readers.

export function announce(text) {
  const region = document.querySelector("[data-announce]");
  if (region.textContent === text) region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text));
}
