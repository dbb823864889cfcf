// A link cannot say which form it wants; a request can.

import { announce } from "./announce.js";

document.addEventListener("click", async (event) => {
  const link = event.target.closest("[data-download]");
  if (!link) return;
  event.preventDefault();
  link.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(link.href, { headers: { Accept: link.dataset.download } });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    save(await answer.blob(), link.download);
    announce(`${link.download} is saved`);
  } catch (error) {
    announce(error.message);
    location.assign(link.href); // whatever is wrong, the service says it best
  } finally {
    link.removeAttribute("aria-busy");
  }
});

function save(blob, name) {
  const made = document.createElement("a");
  made.href = URL.createObjectURL(blob);
  made.download = name;
  made.click();
  setTimeout(() => URL.revokeObjectURL(made.href), 10_000);
}
