// Line charts over epochs with uPlot, in the theme's colours and as wide as their container.

import { colour, onTheme } from "./theme.js";

const HEIGHT = 240;
const percent = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)}%`);

/**
 * Draw shares between 0 and 1 into `container`.
 *
 * `x` counts up; `lines` are {label, values, token, dash}; `marks` are {at, label}, vertical lines;
 * `ticks(width)` returns the positions with labels, and `tickLabel(at)` their labels; `onHover(i)` is called with the
 * position under the pointer, or null.
 */
export function drawShares(container, { x, lines, marks, ticks, tickLabel }, onHover) {
  let plot = null;
  const make = () => {
    plot?.destroy();
    plot = new uPlot(options(container, { lines, marks, ticks, tickLabel }, onHover), [x, ...lines.map((line) => line.values)], container);
  };
  make();
  onTheme(make);
  new ResizeObserver(() => plot.setSize({ width: container.clientWidth, height: HEIGHT })).observe(container);
}

function options(container, { lines, marks, ticks, tickLabel }, onHover) {
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const axis = { stroke: colour("--ink-3"), font, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  return {
    width: container.clientWidth,
    height: HEIGHT,
    padding: [16, 12, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
    scales: { x: { time: false }, y: { range: [0, 1] } },
    axes: [
      { ...axis, size: 30, grid: { show: false }, splits: () => ticks(container.clientWidth), values: (_, positions) => positions.map(tickLabel) },
      { ...axis, size: 44, values: (_, shares) => shares.map((share) => `${Math.round(100 * share)}%`) },
    ],
    series: [
      {},
      ...lines.map((line, i) => ({
        label: line.label,
        stroke: colour(line.token),
        width: i ? 1.5 : 2,
        dash: line.dash,
        points: { show: line.values.filter((value) => value != null).length < 3 },
        value: (_, value) => percent(value),
      })),
    ],
    hooks: {
      draw: [(plot) => marks.forEach((mark) => drawMark(plot, mark, font))],
      setCursor: [(plot) => onHover(plot.cursor.idx ?? null)],
    },
  };
}

function drawMark(plot, { at, label }, font) {
  const { ctx, bbox } = plot;
  const x = plot.valToPos(at, "x", true);
  const scale = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = colour("--line-strong");
  ctx.fillStyle = colour("--ink-3");
  ctx.textAlign = "left";
  ctx.lineWidth = scale;
  ctx.setLineDash([2 * scale, 3 * scale]);
  ctx.beginPath();
  if (at > 0) {
    ctx.moveTo(x, bbox.top - 12 * scale);
    ctx.lineTo(x, bbox.top + bbox.height);
  }
  ctx.stroke();
  ctx.font = font.replace("11px", `${11 * scale}px`);
  ctx.fillText(label, x + 5 * scale, bbox.top - 4 * scale);
  ctx.restore();
}
