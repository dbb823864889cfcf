// Downloads with an Accept header, which a link cannot send.

import { announce } from "./announce.js";

document.addEventListener("click", async (event) => {
  const link = event.target.closest("[data-download]");
  if (!link) return;
  event.preventDefault();
  link.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(link.href, { headers: { Accept: link.dataset.download } });
    if (!response.ok) throw new Error((await response.json()).detail);
    save(await response.blob(), link.download);
    announce(`${link.download} is saved`);
  } catch (error) {
    announce(error.message);
    location.assign(link.href); // shows the service's own error
  } finally {
    link.removeAttribute("aria-busy");
  }
});

function save(blob, name) {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
}
