// Keeps the parts of a page that are marked data-live as the server would write them now.

import { announce } from "./announce.js";

const PAUSE = 400;

/** A function that renews the page soon, however often it is called meanwhile; `done(document)` is told each time. */
export function renewer(done) {
  let planned = false;
  let running = false;
  const renew = async () => {
    planned = false;
    running = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.redirected && new URL(answer.url).pathname.endsWith("/ui/login")) return location.assign(answer.url);
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) swap(part, fresh.getElementById(part.id));
      done(fresh);
    } finally {
      running = false;
      if (planned) setTimeout(renew, PAUSE);
    }
  };
  return () => {
    if (!planned && !running) setTimeout(renew, PAUSE);
    planned = true;
  };
}

function swap(part, fresh) {
  if (!fresh || part.innerHTML === fresh.innerHTML) return;
  const open = new Set([...part.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent));
  part.replaceChildren(...fresh.childNodes);
  for (const summary of part.querySelectorAll("details > summary"))
    if (open.has(summary.textContent)) summary.parentElement.open = true;
  part.dispatchEvent(new CustomEvent("renewed", { bubbles: true }));
}

/** Say whether the page follows its run. */
export function showState(state) {
  const place = document.querySelector("[data-live-state]");
  const words = { live: "Live", waiting: "Reconnecting", gone: "Not followed any more" };
  if (place.dataset.state === state) return;
  if (place.dataset.state !== "off") announce(words[state]);
  place.dataset.state = state;
  place.querySelector("[data-live-word]").textContent = words[state];
  place.hidden = false;
}
