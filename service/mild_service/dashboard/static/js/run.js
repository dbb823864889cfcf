// The overview of a run: its charts, and updates while it trains.

import { enableCopy } from "./copy.js";
import { drawLearningCurve } from "./course.js";
import { enableCut } from "./cut.js";
import { follow } from "./events.js";
import { makeReloader, showState } from "./live.js";
import { enableTabs } from "./tabs.js";

const page = document.querySelector("[data-run]");
const panel = document.getElementById("panel");
let cut = enableCut();
drawLearningCurve();

/** Load the panel of the selection. Only one request runs at a time; a call during a request repeats it. */
let loading = false;
let reloadNeeded = false;
async function loadPanel() {
  if (loading) {
    reloadNeeded = true;
    return;
  }
  loading = true;
  panel.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(panel.dataset.panel, { cache: "no-store" });
    if (response.ok) showPanel(parsePanel(await response.text()));
    else if (!panel.querySelector("[data-selection]")) showError((await response.json()).detail);
  } catch {
    if (!panel.querySelector("[data-selection]")) showError("The service did not answer.");
  } finally {
    panel.removeAttribute("aria-busy");
    loading = false;
    if (reloadNeeded) {
      reloadNeeded = false;
      loadPanel();
    }
  }
}

const parsePanel = (html) => new DOMParser().parseFromString(html, "text/html").querySelector("[data-selection]");

let shownHtml = "";
function showPanel(fresh) {
  if (fresh.outerHTML === shownHtml) return;
  shownHtml = fresh.outerHTML;
  const chosenCut = cut?.chosen ?? null;
  const focused = panel.contains(document.activeElement) && document.activeElement.getAttribute("role") === "slider";
  panel.replaceChildren(fresh);
  enableTabs(panel);
  enableCopy(panel);
  cut = enableCut(chosenCut);
  if (focused) cut?.slider.focus({ preventScroll: true });
}

function showError(text) {
  const card = document.createElement("div");
  card.className = "card";
  const detail = document.createElement("p");
  detail.setAttribute("role", "alert");
  detail.textContent = text;
  const retry = document.createElement("button");
  retry.type = "button";
  retry.className = "button";
  retry.textContent = "Try again";
  retry.addEventListener("click", loadPanel);
  card.append(detail, retry);
  panel.replaceChildren(card);
}

if ("wanted" in panel.dataset) loadPanel();

const reload = makeReloader((fresh) => {
  const freshPanel = fresh.getElementById("panel");
  const hasRound = new URL(location.href).searchParams.has("round");
  if (!hasRound && freshPanel.dataset.panel !== panel.dataset.panel) {
    // The next round has begun: show its set.
    if (freshPanel.dataset.panel) panel.dataset.panel = freshPanel.dataset.panel;
    document.getElementById("set-title").textContent = fresh.getElementById("set-title").textContent;
    cut = null;
  }
  const selection = freshPanel.querySelector("[data-selection]");
  if (selection) showPanel(selection);
  else if (panel.dataset.panel) loadPanel();
});

page.addEventListener("renewed", (event) => {
  if (event.target.id === "live-course") drawLearningCurve();
});

follow(page.dataset.events, page.dataset.lastEvent, reload, showState);
