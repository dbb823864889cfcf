// What screen readers are told of a change.

export function announce(text) {
  const place = document.querySelector("[data-announce]");
  if (place.textContent === text) place.textContent = "";
  requestAnimationFrame(() => (place.textContent = text));
}
