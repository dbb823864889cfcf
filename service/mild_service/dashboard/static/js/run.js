// The overview of a run: its charts, and what changes while it trains.

import { enableCopy } from "./copy.js";
import { drawCourse } from "./course.js";
import { enableCut } from "./cut.js";
import { follow } from "./events.js";
import { renewer, showState } from "./live.js";
import { enableTabs } from "./tabs.js";

const page = document.querySelector("[data-run]");
const panel = document.getElementById("panel");
let cut = enableCut();
drawCourse();

/** Load the part about the set: only one request at a time, and the last wish is always met. */
let loading = false;
let wanted = false;
async function loadPanel() {
  if (loading) {
    wanted = true;
    return;
  }
  loading = true;
  panel.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(panel.dataset.panel, { cache: "no-store" });
    if (answer.ok) fill(parsed(await answer.text()));
    else if (!panel.querySelector("[data-selection]")) complain((await answer.json()).detail);
  } catch {
    if (!panel.querySelector("[data-selection]")) complain("The service did not answer.");
  } finally {
    panel.removeAttribute("aria-busy");
    loading = false;
    if (wanted) {
      wanted = false;
      loadPanel();
    }
  }
}

const parsed = (html) => new DOMParser().parseFromString(html, "text/html").querySelector("[data-selection]");

let filled = "";
function fill(fresh) {
  if (fresh.outerHTML === filled) return;
  filled = fresh.outerHTML;
  const chosen = cut?.chosen ?? null;
  const focused = panel.contains(document.activeElement) && document.activeElement.getAttribute("role") === "slider";
  panel.replaceChildren(fresh);
  enableTabs(panel);
  enableCopy(panel);
  cut = enableCut(chosen);
  if (focused) cut?.slider.focus({ preventScroll: true });
}

function complain(text) {
  const card = document.createElement("div");
  card.className = "card";
  const detail = document.createElement("p");
  detail.setAttribute("role", "alert");
  detail.textContent = text;
  const again = document.createElement("button");
  again.type = "button";
  again.className = "button";
  again.textContent = "Try again";
  again.addEventListener("click", loadPanel);
  card.append(detail, again);
  panel.replaceChildren(card);
}

if ("wanted" in panel.dataset) loadPanel();

const renew = renewer((fresh) => {
  const now = fresh.getElementById("panel");
  const asked = new URL(location.href).searchParams.has("round");
  if (!asked && now.dataset.panel !== panel.dataset.panel) {
    // The next round has begun: its set takes the place of the one before.
    if (now.dataset.panel) panel.dataset.panel = now.dataset.panel;
    document.getElementById("set-title").textContent = fresh.getElementById("set-title").textContent;
    cut = null;
  }
  const known = now.querySelector("[data-selection]");
  if (known) fill(known);
  else if (panel.dataset.panel) loadPanel();
});

page.addEventListener("renewed", (event) => {
  if (event.target.id === "live-course") drawCourse();
});

follow(page.dataset.events, page.dataset.lastEvent, renew, showState);
