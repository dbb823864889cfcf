// The learning curve of a run, over all rounds.

import { drawShares } from "./chart.js";

const STYLES = [
  { token: "--kept" },
  { token: "--ink-2", dash: [6, 4] },
  { token: "--ink-3", dash: [2, 3] },
  { token: "--dropped", dash: [9, 3, 2, 3] },
];
const percent = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)}%`);
const toTitle = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

export function drawLearningCurve() {
  const data = document.getElementById("course-data");
  if (!data) return;
  const { columns, accuracies } = JSON.parse(data.textContent);
  const [rounds, epochs, ...shares] = columns;
  const labels = ["Memorised", ...accuracies.map(toTitle)].slice(0, STYLES.length);
  // A gap between two rounds keeps their lines apart.
  const x = [], marks = [], origin = [];
  const lines = labels.map((label, i) => ({ label, values: [], ...STYLES[i] }));
  rounds.forEach((round, i) => {
    if (i === 0 || rounds[i - 1] !== round) {
      if (i > 0) {
        x.push(x.length);
        origin.push(null);
        for (const line of lines) line.values.push(null);
      }
      marks.push({ at: x.length, label: `Round ${round}` });
    }
    x.push(x.length);
    origin.push(i);
    lines.forEach((line, k) => line.values.push(shares[k][i]));
  });
  const legend = document.getElementById("course-legend");
  const updateLegend = (at) => {
    const i = at == null || origin[at] == null ? rounds.length - 1 : origin[at];
    legend.replaceChildren(positionItem(`Round ${rounds[i]}, epoch ${epochs[i]}`), ...lines.map((line, k) => legendItem(line, shares[k][i], k)));
  };
  updateLegend(null);
  const tickLabel = (at) => String(epochs[origin[at]]);
  const ticks = (width) => {
    const step = roundStep((x.length * 45) / width);
    return x.filter((at) => origin[at] != null && epochs[origin[at]] % step === 0);
  };
  drawShares(document.getElementById("course-chart"), { x, lines, marks, ticks, tickLabel }, updateLegend);
}

/** The smallest of 1, 2, 5, 10, 20, … that is at least `least`. */
function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least) ?? 1;
}

function positionItem(text) {
  const item = document.createElement("li");
  item.className = "legend-place";
  item.textContent = text;
  return item;
}

function legendItem(line, value, k) {
  const item = document.createElement("li");
  const swatch = document.createElement("span");
  swatch.className = `swatch line-${k}`;
  const share = document.createElement("b");
  share.textContent = percent(value);
  item.append(swatch, `${line.label} `, share);
  return item;
}
