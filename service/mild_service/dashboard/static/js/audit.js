// Answers to the drawn samples of an audit, without a reload of the page. Without this script the forms reload it.

import { announce } from "./announce.js";
import { enableCopy } from "./copy.js";

document.addEventListener("submit", async (event) => {
  if (!event.target.matches("[data-answer]")) return;
  event.preventDefault();
  const card = event.target.closest(".answer");
  const body = new URLSearchParams(new FormData(event.target, event.submitter));
  const response = await fetch(event.target.action, { method: "POST", body, headers: { Accept: "text/html" } });
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  const state = fresh.getElementById("audit-state");
  const freshCard = fresh.getElementById(card.id);
  // A problem, or the next page of samples: show what came.
  if (!response.ok || !state || !freshCard) return location.assign(response.url);
  document.getElementById("audit-state").replaceWith(state);
  card.replaceWith(freshCard);
  enableCopy(state);
  announce(state.querySelector("b, p:nth-of-type(2)").textContent);
  const next = nextOpen(freshCard);
  if (next) next.querySelector("button").focus();
  else state.scrollIntoView();
});

/** The first card without an answer after `card`, or else before it. */
function nextOpen(card) {
  const open = [...document.querySelectorAll(".answer[data-open]")];
  return open.find((other) => card.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING) ?? open[0];
}
