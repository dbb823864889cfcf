// The data map: one stop for the Tab key, arrows move to the nearest cell, and a line below says what a cell holds.

const map = document.querySelector("[data-map]");
const says = document.querySelector("[data-map-says]");

if (map) {
  const cells = [...map.querySelectorAll("a")];
  const usual = says.textContent;
  const place = (cell) => [Number(cell.dataset.column), Number(cell.dataset.row)];
  const choose = (cell) => {
    for (const other of cells) other.setAttribute("tabindex", other === cell ? "0" : "-1");
  };
  const tell = (cell) => (says.textContent = cell ? cell.querySelector("title").textContent : usual);
  if (cells.length) choose(cells[0]);

  map.addEventListener("keydown", (event) => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const at = document.activeElement.closest("a");
    if (!way || !at) return;
    event.preventDefault();
    const next = nearest(at, way);
    if (next) {
      choose(next);
      next.focus();
    }
  });
  map.addEventListener("focusin", (event) => tell(event.target.closest("a")));
  map.addEventListener("focusout", () => tell(null));
  map.addEventListener("pointerover", (event) => tell(event.target.closest("a")));
  map.addEventListener("pointerleave", () => tell(null));

  function nearest(from, [right, up]) {
    const [x, y] = place(from);
    let best = null;
    let least = Infinity;
    for (const cell of cells) {
      const [dx, dy] = [place(cell)[0] - x, place(cell)[1] - y];
      const ahead = dx * right + dy * up;
      if (ahead <= 0) continue;
      const aside = Math.abs(dx * up) + Math.abs(dy * right);
      if (ahead + 3 * aside < least) [best, least] = [cell, ahead + 3 * aside];
    }
    return best;
  }
}
