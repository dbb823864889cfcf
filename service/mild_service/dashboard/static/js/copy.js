// Copy buttons: data-copy is the id of the element whose text they copy.

import { announce } from "./announce.js";

export function enableCopy(scope = document) {
  for (const button of scope.querySelectorAll("[data-copy]")) button.hidden = false;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy).textContent;
  const copied = await write(text);
  announce(copied ? "Copied" : "Could not copy: select the text instead");
  button.classList.toggle("copied", copied);
  setTimeout(() => button.classList.remove("copied"), 1500);
});

async function write(text) {
  try {
    await navigator.clipboard.writeText(text); // needs https or localhost
    return true;
  } catch {
    return writeWithSelection(text);
  }
}

function writeWithSelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}
