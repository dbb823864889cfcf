// Reloads the parts of a page that are marked data-live.

import { announce } from "./announce.js";

const PAUSE = 400;

/** Return a function that reloads the page soon, once for many calls; `onReload(document)` is called after each. */
export function makeReloader(onReload) {
  let planned = false;
  let running = false;
  const reload = async () => {
    planned = false;
    running = true;
    try {
      const response = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (response.redirected && new URL(response.url).pathname.endsWith("/ui/login")) return location.assign(response.url);
      if (!response.ok) return;
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) replacePart(part, fresh.getElementById(part.id));
      onReload(fresh);
    } finally {
      running = false;
      if (planned) setTimeout(reload, PAUSE);
    }
  };
  return () => {
    if (!planned && !running) setTimeout(reload, PAUSE);
    planned = true;
  };
}

function replacePart(part, fresh) {
  if (!fresh || part.innerHTML === fresh.innerHTML) return;
  const open = new Set([...part.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent));
  part.replaceChildren(...fresh.childNodes);
  for (const summary of part.querySelectorAll("details > summary"))
    if (open.has(summary.textContent)) summary.parentElement.open = true;
  part.dispatchEvent(new CustomEvent("renewed", { bubbles: true }));
}

/** Show whether the page follows its run. */
export function showState(state) {
  const indicator = document.querySelector("[data-live-state]");
  const words = { live: "Live", waiting: "Reconnecting", gone: "No longer live" };
  if (indicator.dataset.state === state) return;
  if (indicator.dataset.state !== "off") announce(words[state]);
  indicator.dataset.state = state;
  indicator.querySelector("[data-live-word]").textContent = words[state];
  indicator.hidden = false;
}
