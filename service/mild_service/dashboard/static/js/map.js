// The data map: the Tab key stops once, arrows move to the nearest cell, and a line below describes the cell.

const map = document.querySelector("[data-map]");
const description = document.querySelector("[data-map-says]");

if (map) {
  const cells = [...map.querySelectorAll("a")];
  const defaultText = description.textContent;
  const position = (cell) => [Number(cell.dataset.column), Number(cell.dataset.row)];
  const choose = (cell) => {
    for (const other of cells) other.setAttribute("tabindex", other === cell ? "0" : "-1");
  };
  const describe = (cell) => (description.textContent = cell ? cell.querySelector("title").textContent : defaultText);
  if (cells.length) choose(cells[0]);

  map.addEventListener("keydown", (event) => {
    const direction = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const at = document.activeElement.closest("a");
    if (!direction || !at) return;
    event.preventDefault();
    const next = nearest(at, direction);
    if (next) {
      choose(next);
      next.focus();
    }
  });
  map.addEventListener("focusin", (event) => describe(event.target.closest("a")));
  map.addEventListener("focusout", () => describe(null));
  map.addEventListener("pointerover", (event) => describe(event.target.closest("a")));
  map.addEventListener("pointerleave", () => describe(null));

  function nearest(from, [right, up]) {
    const [x, y] = position(from);
    let best = null;
    let least = Infinity;
    for (const cell of cells) {
      const [dx, dy] = [position(cell)[0] - x, position(cell)[1] - y];
      const ahead = dx * right + dy * up;
      if (ahead <= 0) continue;
      const aside = Math.abs(dx * up) + Math.abs(dy * right);
      if (ahead + 3 * aside < least) [best, least] = [cell, ahead + 3 * aside];
    }
    return best;
  }
}
