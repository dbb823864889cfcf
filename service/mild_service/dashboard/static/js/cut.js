// The histogram of scores with its cut, which can be moved with the pointer or keys. All numbers come from the sweep of
// the API, so the page shows what the API returns for a cut.

import { announce } from "./announce.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 236;
const TOP = 26;
const BOTTOM = 40;
const SIDE = 12;

const number = (value) => value.toLocaleString("en-US");
const percent = (share, digits = 1) => (share == null ? "–" : `${(100 * share).toFixed(digits)}%`);
const range = (low, high) => (low == null ? "not identified" : `${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)}%`);
const atLeast = (share) => `${(Math.floor(1000 * share + 1e-9) / 10).toFixed(1)}%`;
const short = (value) => String(Number(value.toFixed(2)));

/** Draw the histogram of the panel, if there is one; `cut` is the bin that a reader chose before. */
export function enableCut(cut = null) {
  const data = document.getElementById("cut-data");
  return data ? new Cut(JSON.parse(data.textContent), cut) : null;
}

class Cut {
  constructor(data, cut) {
    this.data = data;
    this.n = data.kept.length;
    this.own = data.threshold.cut ?? this.n - 1;
    this.at = cut == null ? this.own : Math.min(cut, this.n - 1);
    this.container = document.getElementById("cut-chart");
    this.reset = document.querySelector("[data-cut-reset]");
    this.reset.addEventListener("click", () => {
      this.move(this.own);
      this.slider.focus();
    });
    new ResizeObserver(() => this.draw()).observe(this.container);
    this.draw();
    this.describe();
  }

  /** The cut that a reader has chosen; null for the run's own. */
  get chosen() {
    return this.at === this.own ? null : this.at;
  }

  draw() {
    const width = this.container.clientWidth;
    if (!width || width === this.width) return;
    const focused = this.slider && document.activeElement === this.slider;
    this.width = width;
    this.inner = width - 2 * SIDE;
    this.step = this.inner / this.n;
    const svg = element("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, class: "cut-svg" });
    svg.append(this.clips(), this.bars("kept"), this.bars("dropped"), ...this.curves(), ...this.bounds(), ...this.axis());
    this.ownMark = element("line", { class: "cut-own", x1: this.x(this.own + 1), x2: this.x(this.own + 1), y1: TOP, y2: HEIGHT - BOTTOM });
    svg.append(this.ownMark, (this.slider = this.handle()));
    this.container.replaceChildren(svg);
    this.listen(svg);
    this.show();
    if (focused) this.slider.focus();
  }

  x(bin) {
    return SIDE + bin * this.step;
  }

  y(count) {
    this.highest ??= Math.max(...this.data.histogram.counts, ...(this.data.densities ?? []).flat(), 1);
    return HEIGHT - BOTTOM - Math.sqrt(Math.max(count, 0) / this.highest) * (HEIGHT - TOP - BOTTOM);
  }

  clips() {
    const defs = element("defs");
    this.clip = {};
    for (const side of ["kept", "dropped"]) {
      const clip = element("clipPath", { id: `cut-clip-${side}` });
      this.clip[side] = element("rect", { y: 0, height: HEIGHT });
      clip.append(this.clip[side]);
      defs.append(clip);
    }
    return defs;
  }

  bars(side) {
    const gap = this.step > 5 ? 1 : 0;
    const path = this.data.histogram.counts
      .map((count, bin) => (count ? `M${this.x(bin) + gap / 2} ${HEIGHT - BOTTOM}V${this.y(count)}h${this.step - gap}V${HEIGHT - BOTTOM}z` : ""))
      .join("");
    return element("path", { d: path, class: `cut-bars ${side}`, "clip-path": `url(#cut-clip-${side})` });
  }

  curves() {
    return (this.data.densities ?? []).map((density, i) =>
      element("path", {
        d: density.map((count, bin) => `${bin ? "L" : "M"}${this.x(bin + 0.5)} ${this.y(count)}`).join(""),
        class: `cut-curve ${i ? "dropped" : "kept"}`,
      }),
    );
  }

  /** The lower bounds of every cut, over an axis of shares. */
  bounds() {
    if (!this.data.bounds) return [];
    const y = (share) => HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
    const grid = [0.5, 1].map((share) => element("line", { class: "cut-grid", x1: SIDE + 34, x2: this.width - SIDE, y1: y(share), y2: y(share) }));
    const lines = ["precision", "recall"].map((name) =>
      element("path", {
        d: this.data.bounds[name].map((share, bin) => `${bin ? "L" : "M"}${this.x(bin + 1)} ${y(share)}`).join(""),
        class: `cut-bound ${name}`,
      }),
    );
    const ticks = [0.5, 1].map((share) =>
      element("text", { class: "cut-tick cut-share", x: SIDE, y: y(share) + 4 }, percent(share, 0)),
    );
    return [...grid, ...lines, ...ticks];
  }

  axis() {
    const parts = [element("line", { class: "cut-base", x1: SIDE, x2: this.width - SIDE, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM })];
    const ticks = Math.max(2, Math.min(this.n, Math.floor(this.inner / 90)));
    for (let i = 0; i < ticks; i++) {
      const bin = Math.round((i * (this.n - 1)) / (ticks - 1));
      const anchor = i === 0 ? "start" : i === ticks - 1 ? "end" : "middle";
      const at = i === 0 ? SIDE : i === ticks - 1 ? this.width - SIDE : this.x(bin + 0.5);
      parts.push(element("text", { class: "cut-tick", x: at, y: HEIGHT - BOTTOM + 16, "text-anchor": anchor }, short(this.data.value[bin])));
    }
    parts.push(element("text", { class: "cut-tick", x: SIDE, y: HEIGHT - 6 }, "← learned early"));
    parts.push(element("text", { class: "cut-tick", x: this.width - SIDE, y: HEIGHT - 6, "text-anchor": "end" }, "learned late or never →"));
    return parts;
  }

  handle() {
    const slider = element("g", {
      class: "cut-handle",
      role: "slider",
      tabindex: 0,
      "aria-label": "Cut",
      "aria-describedby": "cut-help",
      "aria-orientation": "horizontal",
      "aria-valuemin": 0,
      "aria-valuemax": this.n - 1,
    });
    slider.append(
      element("rect", { class: "cut-grip", x: -14, y: 0, width: 28, height: HEIGHT - BOTTOM }),
      element("line", { class: "cut-line", y1: 20, y2: HEIGHT - BOTTOM }),
      element("rect", { class: "cut-knob", x: -9, y: 3, width: 18, height: 18, rx: 9 }),
      element("path", { class: "cut-arrows", d: "M-2.2 9.3 -5 12l2.8 2.7M2.2 9.3 5 12l-2.8 2.7" }),
    );
    return slider;
  }

  listen(svg) {
    const follow = (event) => {
      const left = svg.getBoundingClientRect().left;
      this.move(Math.round((event.clientX - left - SIDE) / this.step) - 1);
    };
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      this.dragging = true;
      this.slider.focus({ preventScroll: true });
      follow(event);
      event.preventDefault();
    });
    svg.addEventListener("pointermove", (event) => this.dragging && follow(event));
    for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => (this.dragging = false));
    this.slider.addEventListener("keydown", (event) => {
      const pageStep = Math.max(1, Math.round(this.n / 10));
      const target = {
        ArrowRight: this.at + 1, ArrowUp: this.at + 1, ArrowLeft: this.at - 1, ArrowDown: this.at - 1,
        PageUp: this.at + pageStep, PageDown: this.at - pageStep, Home: 0, End: this.n - 1, Escape: this.own,
      }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      this.move(target);
    });
  }

  move(to) {
    const at = Math.max(0, Math.min(this.n - 1, to));
    if (at === this.at) return;
    this.at = at;
    this.show();
    this.describe();
  }

  show() {
    const x = this.x(this.at + 1);
    set(this.clip.kept, { x: 0, width: x });
    set(this.clip.dropped, { x, width: Math.max(this.width - x, 0) });
    this.ownMark.classList.toggle("moved", this.chosen != null);
    set(this.slider, { transform: `translate(${x} 0)`, "aria-valuenow": this.at, "aria-valuetext": this.valueText() });
  }

  valueText() {
    const { value, kept, fitted, bounds, measured } = this.data;
    const at = this.at;
    const texts = [`score up to ${short(value[at])}: ${number(kept[at])} kept`];
    if (bounds) texts.push(`bounded: at least ${atLeast(bounds.precision[at])} of the kept are right, at least ${atLeast(bounds.recall[at])} of the right are kept`);
    if (measured) texts.push(`measured: precision ${percent(measured.precision[at])}, recall ${percent(measured.recall[at])}`);
    if (fitted.precision[at] != null) texts.push(`by the fit: precision ${percent(fitted.precision[at], 0)}, recall ${percent(fitted.recall[at], 0)}`);
    return texts.join("; ");
  }

  describe() {
    const { kept, value, fitted, bounds, measured, metric } = this.data;
    const at = this.at;
    const total = kept[this.n - 1];
    setOutput("kept", number(kept[at]));
    setOutput("share", `${percent(kept[at] / total)} of the judged samples, score ≤ ${short(value[at])}`);
    for (const name of ["precision", "recall"]) {
      setOutput(name, percent(fitted[name][at]));
      setOutput(`${name}-range`, range(fitted[`${name}_low`][at], fitted[`${name}_high`][at]));
      if (bounds) setOutput(`bound-${name}`, `≥ ${atLeast(bounds[name][at])}`);
      if (measured) setOutput(`measured-${name}`, name === "recall" ? `${percent(measured.recall[at])} of the right are kept` : percent(measured.precision[at]));
    }
    document.querySelector("#cut-readout .fitted").hidden = fitted.precision[at] == null;
    this.container.dataset.metric = metric;
    this.container.dataset.value = value[at];
    this.reset.hidden = this.chosen == null;
    document.querySelector("[data-cut-title]").textContent = this.chosen == null ? "Fetch this set" : "Fetch the set with this cut";
    this.updateSnippets();
    if (this.chosen != null && !this.dragging && document.activeElement !== this.slider) announce(this.valueText());
  }

  updateSnippets() {
    for (const template of document.querySelectorAll("[data-cut-template]")) {
      const code = document.querySelector(`[data-tab="${template.dataset.cutTemplate}"] code`);
      code.dataset.own ??= code.textContent;
      code.textContent = this.chosen == null ? code.dataset.own : template.content.textContent.replace("{value}", this.data.value[this.at]);
    }
  }
}

function setOutput(name, text) {
  const output = document.querySelector(`[data-out="${name}"]`);
  if (output) output.textContent = text;
}

function element(name, attributes = {}, text = null) {
  const node = document.createElementNS(SVG, name);
  set(node, attributes);
  if (text !== null) node.textContent = text;
  return node;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}
