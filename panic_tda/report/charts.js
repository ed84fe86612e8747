/** Line and bar charts as drawings of a few elements. */
import { el, hideTip, short, showTip, svg } from "./dom.js";

/**
 * @typedef {[number, number | null][]} Curve
 * @typedef {{name: string, points: Curve, tone?: number, dashed?: boolean, steps?: boolean, dots?: boolean}} Series
 * @typedef {{label: string, low?: number, high?: number, log?: boolean, percent?: boolean, floor?: number}} Axis
 * @typedef {{x: number, text: string}} Mark
 */

const WIDTH = 520;
const HEIGHT = 280;
const LEFT = 52;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 40;

/**
 * @param {Axis} axis
 * @param {number[]} values
 * @param {number} from
 * @param {number} to
 */
function scaleOf(axis, values, from, to) {
  const finite = values.filter((value) => Number.isFinite(value) && (!axis.log || value > 0));
  let low = axis.low ?? Math.min(...finite);
  let high = axis.high ?? Math.max(...finite);
  if (!Number.isFinite(low) || !Number.isFinite(high)) [low, high] = axis.log ? [0.1, 1] : [0, 1];
  if (low === high) [low, high] = axis.log ? [low / 2, high * 2] : axis.low === undefined ? [low - 0.5, high + 0.5] : [low, low + 1];
  const turn = axis.log ? Math.log : Number;
  const at = (/** @type {number} */ value) => from + ((turn(value) - turn(low)) / (turn(high) - turn(low))) * (to - from);
  return { at, low, high, ticks: axis.log ? logTicks(low, high) : evenTicks(low, high) };
}

/** @param {number} low @param {number} high */
function evenTicks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => power * factor >= rough) ?? 10);
  const ticks = [];
  for (let number = Math.ceil(low / step - 1e-9); number * step <= high + step * 1e-9; number++) ticks.push(number * step);
  return ticks;
}

/** @param {number} low @param {number} high */
function logTicks(low, high) {
  const ticks = [];
  const wide = high / low > 1e3;
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of wide ? [1] : [1, 2, 5]) {
      const tick = factor * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}

/** @param {Axis} axis @param {number} value */
function tickText(axis, value) {
  if (axis.percent) return `${short(Number((100 * value).toPrecision(3)))} %`;
  return Math.abs(value) >= 1e4 ? `${short(value / 1e3)}k` : short(Number(value.toPrecision(6)));
}

/**
 * @param {any} x @param {any} y @param {Axis} across @param {Axis} up
 */
function frame(x, y, across, up) {
  const parts = [];
  for (const tick of y.ticks) {
    const at = y.at(tick);
    parts.push(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at, class: "rule" }));
    parts.push(svg("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, tickText(up, tick)));
  }
  for (const tick of x.ticks) {
    parts.push(svg("text", { x: x.at(tick), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, tickText(across, tick)));
  }
  parts.push(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM, class: "axis" }));
  parts.push(svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end", class: "title" }, across.label));
  return parts;
}

/** @param {string} label @param {string} what */
function drawing(label, what) {
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${label}: ${what}`, class: "chart" });
}

/**
 * Lines over one axis, the tooltip naming the values nearest to the pointer.
 * @param {{title: string, x: Axis, y: Axis, series: Series[], marks?: Mark[]}} spec
 */
export function lineChart({ title, x: across, y: up, series, marks = [] }) {
  const points = series.flatMap((one) => one.points.filter(([, value]) => value !== null));
  const x = scaleOf(across, [...points.map(([value]) => value), ...marks.map((mark) => mark.x)], LEFT, WIDTH - RIGHT);
  const y = scaleOf(up, points.map(([, value]) => /** @type {number} */ (value)), HEIGHT - BOTTOM, TOP);
  const chart = drawing(title, `${up.label} over ${across.label}`);
  chart.append(...frame(x, y, across, up));
  for (const mark of marks) {
    chart.append(svg("line", { x1: x.at(mark.x), x2: x.at(mark.x), y1: TOP, y2: HEIGHT - BOTTOM, class: "mark" }));
    const late = x.at(mark.x) > WIDTH * 0.7;
    chart.append(svg("text", { x: x.at(mark.x) + (late ? -5 : 5), y: TOP + 9, "text-anchor": late ? "end" : "start", class: "mark-text" }, mark.text));
  }
  series.forEach((one, number) => {
    const tone = one.tone ?? number;
    chart.append(svg("path", { d: pathOf(one, x, y), class: `line tone-${tone % 7}${one.dashed ? " dashed" : ""}` }));
    if (!one.dots) return;
    for (const [at, value] of one.points) {
      if (value !== null) chart.append(svg("circle", { cx: x.at(at), cy: y.at(value), r: 3.2, class: `dot tone-${tone % 7}` }));
    }
  });
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const pointed = ((/** @type {PointerEvent} */ (event).clientX - box.left) / box.width) * WIDTH;
    showTip(/** @type {PointerEvent} */ (event), readings(series, x, pointed, across, up));
  });
  chart.addEventListener("pointerleave", hideTip);
  return el("div", {}, el("p", { class: "up" }, up.label), chart, series.length > 1 || series[0]?.name ? legend(series) : "");
}

/** @param {Series} one @param {any} x @param {any} y */
function pathOf(one, x, y) {
  let path = "";
  let down = false;
  let before = 0;
  for (const [at, value] of one.points) {
    if (value === null || !Number.isFinite(y.at(value))) {
      down = false;
      continue;
    }
    const [px, py] = [x.at(at).toFixed(1), Math.min(HEIGHT - BOTTOM, y.at(value)).toFixed(1)];
    path += down ? (one.steps ? `L${px} ${before}L${px} ${py}` : `L${px} ${py}`) : `M${px} ${py}`;
    before = Number(py);
    down = true;
  }
  return path;
}

/** @param {Series[]} series @param {any} x @param {number} pointed @param {Axis} across @param {Axis} up */
function readings(series, x, pointed, across, up) {
  let nearest = NaN;
  for (const one of series) {
    for (const [at] of one.points) {
      if (!(Math.abs(x.at(at) - pointed) >= Math.abs(x.at(nearest) - pointed))) nearest = at;
    }
  }
  const lines = [`${across.label} ${short(nearest)}`];
  for (const one of series) {
    const before = one.steps ? one.points.filter(([at]) => at <= nearest).at(-1) : one.points.find(([at]) => at === nearest);
    if (before && before[1] !== null) lines.push(`${one.name || up.label}: ${up.percent ? `${(100 * before[1]).toFixed(1)} %` : short(before[1])}`);
  }
  return lines.slice(0, 9);
}

/** @param {Series[]} series */
function legend(series) {
  const items = series.map((one, number) => el("li", { class: `${one.dashed ? "dashed " : ""}tone-${(one.tone ?? number) % 7}` }, el("span", { dir: "auto" }, one.name)));
  return el("ul", { class: "legend" }, ...items);
}

/**
 * Bars side by side; `inner` is the part of each that stands out.
 * @param {{title: string, x: Axis, y: Axis, bars: {from: number, to: number, value: number, inner?: number}[], names: string[]}} spec
 */
export function histogram({ title, x: across, y: up, bars, names }) {
  const x = scaleOf(across, bars.flatMap((bar) => [bar.from, bar.to]), LEFT, WIDTH - RIGHT);
  // One bar of copies, all at the least distance there is, would flatten all others: it is cut, and says so.
  const [highest = 0, second = 0] = bars.map((bar) => bar.value).sort((a, b) => b - a);
  const high = highest > 3 * second && second > 0 ? 1.5 * second : highest;
  const y = scaleOf({ ...up, low: 0, high: Math.max(1, high) }, [], HEIGHT - BOTTOM, TOP);
  const top = (/** @type {number} */ value) => Math.max(TOP, y.at(value));
  const chart = drawing(title, `${up.label} over ${across.label}`);
  chart.append(...frame(x, y, across, up));
  for (const bar of bars) {
    const lines = [`${short(bar.from)} to ${short(bar.to)}`, `${names[0]}: ${short(bar.value)}`];
    if (bar.inner !== undefined) lines.push(`${names[1]}: ${short(bar.inner)}`);
    const group = svg("g", { class: "bar" });
    const width = Math.max(0.6, x.at(bar.to) - x.at(bar.from) - 0.4);
    group.append(svg("rect", { x: x.at(bar.from), width, y: top(bar.value), height: y.at(0) - top(bar.value), class: "fill tone-0" }));
    if (bar.inner) group.append(svg("rect", { x: x.at(bar.from), width, y: top(bar.inner), height: y.at(0) - top(bar.inner), class: "fill muted" }));
    if (bar.value > high) group.append(svg("text", { x: x.at(bar.to) + 5, y: TOP + 10, class: "mark-text" }, `↑ ${short(bar.value)}`));
    group.addEventListener("pointermove", (event) => showTip(/** @type {PointerEvent} */ (event), lines));
    chart.append(group);
  }
  chart.addEventListener("pointerleave", hideTip);
  const keys = names.map((name, number) => el("li", { class: number ? "block muted" : "block tone-0" }, name));
  return el("div", {}, el("p", { class: "up" }, up.label), chart, el("ul", { class: "legend" }, ...keys));
}

/**
 * Shares as bars that lie, each with its name and its number.
 * @param {{name: string, share: number, note: string}[]} rows
 */
export function shareBars(rows) {
  return el(
    "div",
    { class: "bars" },
    ...rows.map((row) => {
      const bar = el("span", { class: "extent" });
      bar.style.width = `${(100 * row.share).toFixed(2)}%`;
      return el(
        "div",
        { class: "share", title: row.note },
        el("span", { class: "name", dir: "auto" }, row.name),
        el("span", { class: "track" }, bar),
        el("span", { class: "number" }, `${(100 * row.share).toFixed(1)} %`),
      );
    }),
  );
}
