/** What runs do between the clusters: groups, transitions, dwells, and what changes over steps. */
import { lineChart } from "./charts.js";
import { css, isDark, mixed, themeColour } from "./colours.js";
import { asTsv, byId, choice, copyButton, counted, decimal, el, figure, hideTip, named, numbersOf, oneLine, percent, plainTable, short, showTip, whole } from "./dom.js";
import { medoidText } from "./map.js";
import { CHOICES, choose, chosen, whenChosen } from "./state.js";

/** @typedef {import("./container.js").Page} MotionPage */

/** Lines in one chart that an eye tells apart. */
const MOST_LINES = 7;

const HEADS = [
  { title: "runs", number: true, show: whole },
  { title: "steps", number: true, show: whole },
  { title: "transit", number: true, show: percent },
  { title: "settled", number: true, show: whole },
  { title: "fixed points", number: true, show: whole },
  { title: "loops", number: true, show: whole },
  { title: "absorbed at (median)", number: true, show: short },
  { title: "visits", number: true, show: whole },
  { title: "cut off", number: true, show: whole },
  { title: "dwell (median)", number: true, show: short },
  { title: "Weibull shape", number: true, show: decimal },
  { title: "heavy tail", show: (/** @type {boolean | null} */ value) => (value === null ? "–" : value ? "yes" : "no") },
];

/** Rows of the table of groups. @param {any[]} groups */
export function groupRows(groups) {
  return groups.map((one) => {
    const periodic = /** @type {[string, number][]} */ (Object.entries(one.periodic_runs));
    const fixed = one.periodic_runs[1] ?? 0;
    const loops = periodic.reduce((sum, [, count]) => sum + count, 0) - fixed;
    return [
      ...Object.values(one.group).map((value) => named(/** @type {any} */ (value))),
      one.n_runs, one.n_steps, one.transit_share, one.settled_runs, fixed, loops, one.median_absorbed_at,
      one.dwell.visits, one.dwell.censored, one.dwell.median, one.dwell.weibull_shape, one.dwell.heavier_than_exponential,
    ];
  });
}

export class DynamicsSection {
  /** @param {MotionPage} page */
  constructor(page) {
    this.page = page;
    const picked = choice("Runs by", CHOICES.by, chosen.by, (by) => choose({ by }));
    byId("dynamics-controls").append(picked.element);
    this.show();
    whenChosen((changed) => {
      if (changed.has("by")) picked.select.value = chosen.by;
      if (changed.has("by") || changed.has("theme")) this.show();
      else if (changed.has("cluster")) this.drawMatrix();
    });
  }

  show() {
    const by = chosen.by;
    const groups = this.page.groups.by[by];
    const heads = [...by.split(",").map((title) => ({ title })), ...HEADS];
    byId("groups-box").replaceChildren(copyButton(() => asTsv(heads, groupRows(groups))), el("div", { class: "scroll" }, plainTable(heads, groupRows(groups))));
    const curves = by === "network,prompt" ? "network" : by;
    byId("dynamics-charts").replaceChildren(this.matrix(), this.dwells(), this.absorption(curves), this.byStep(curves, "transit", "Transit share over steps", "Share of steps between clusters, or before the first."), this.byStep(curves, "drift", "Drift over steps", "Median distance (chord) from the first step of the run, of the embeddings on the map."));
  }

  matrix() {
    const { states, matrix } = this.page.dynamics;
    const n = states.length;
    if (!n) return figure("Transitions", "No run visits a cluster.");
    this.canvas = el("canvas", { class: "matrix", role: "img", "aria-label": "Transitions between clusters" });
    this.canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", hideTip);
    this.canvas.addEventListener("click", (/** @type {PointerEvent} */ event) => {
      const cell = this.cellAt(event);
      if (cell) choose({ cluster: states[cell[0]] });
    });
    this.drawMatrix();
    const rows = () => Array.from(states, (state, row) => [state, ...Array.from({ length: n }, (_, column) => matrix[row * n + column])]);
    const heads = [{ title: "from / to", number: true }, ...Array.from(states, (state) => ({ title: String(state), number: true }))];
    return figure(
      "Transitions",
      `Between the ${n === 1 ? "one cluster" : `${n} clusters`} with most visits at lag ${this.page.groups.lag}, from the row to the column; what often follows each other stands together. ${isDark() ? "Brighter" : "Darker"} is a larger share of the row, staying left out.`,
      this.canvas,
      numbersOf(heads, rows),
    );
  }

  drawMatrix() {
    if (!this.canvas) return;
    const { states, matrix } = this.page.dynamics;
    const n = states.length;
    const size = 900;
    const cell = size / n;
    this.canvas.width = this.canvas.height = size;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const [ground, ink] = [themeColour("--ground"), themeColour("--ink")];
    const full = isDark() ? [140, 190, 255] : [8, 48, 107];
    for (let row = 0; row < n; row++) {
      let leaving = 0;
      for (let column = 0; column < n; column++) if (column !== row) leaving += matrix[row * n + column];
      for (let column = 0; column < n; column++) {
        const share = column === row ? 0 : matrix[row * n + column] / Math.max(1, leaving);
        context.fillStyle = column === row ? css(ink, 0.08) : css(mixed(ground, full, share ? 0.12 + 0.88 * Math.sqrt(share) : 0));
        context.fillRect(column * cell, row * cell, cell - 1, cell - 1);
      }
    }
    const at = chosen.cluster === null ? -1 : Array.prototype.indexOf.call(states, chosen.cluster);
    if (at < 0) return;
    context.strokeStyle = css(ink);
    context.lineWidth = 2.5;
    context.strokeRect(1, at * cell, size - 2, cell);
    context.strokeRect(at * cell, 1, cell, size - 2);
  }

  /** @param {PointerEvent} event @returns {[number, number] | null} */
  cellAt(event) {
    const n = this.page.dynamics.states.length;
    const { width, height } = this.canvas.getBoundingClientRect();
    const [row, column] = [Math.floor((event.offsetY / height) * n), Math.floor((event.offsetX / width) * n)];
    return row >= 0 && row < n && column >= 0 && column < n ? [row, column] : null;
  }

  /** @param {PointerEvent} event */
  hover(event) {
    const cell = this.cellAt(event);
    if (!cell) return hideTip();
    const { states, matrix } = this.page.dynamics;
    const [from, to] = cell.map((at) => states[at]);
    const count = matrix[cell[0] * states.length + cell[1]];
    showTip(event, [
      from === to ? `${counted(count, "time")} on in ${from}` : `${counted(count, "time")} from ${from} to ${to}`,
      oneLine(medoidText(this.page, from), 90),
      from === to ? null : `→ ${oneLine(medoidText(this.page, to), 90)}`,
    ]);
  }

  dwells() {
    const curves = this.page.dynamics.survival.filter((/** @type {any} */ one) => one.times.length);
    if (!curves.length) return figure("Dwells", "No visit ends.");
    const shown = curves.slice(0, MOST_LINES);
    /** @type {import("./charts.js").Series[]} */
    const series = [];
    shown.forEach((/** @type {any} */ one, /** @type {number} */ tone) => {
      const points = one.times.map((/** @type {number} */ time, /** @type {number} */ at) => [time, one.shares[at] > 0 ? one.shares[at] : null]);
      series.push({ name: named(one.name), points: [[0, 1], ...points], tone, steps: true });
      // All that ended did so at the first look: no exponential is the likeliest.
      if (one.mean === null) return;
      const last = one.times[one.times.length - 1];
      const model = Array.from({ length: 41 }, (_, at) => [(last * at) / 40, Math.exp(-(last * at) / 40 / one.mean)]);
      series.push({ name: `${named(one.name)}, exponential`, points: /** @type {any} */ (model), tone, dashed: true });
    });
    const heads = [{ title: "network" }, { title: "dwell", number: true }, { title: "survival", number: true }];
    const rows = () => curves.flatMap((/** @type {any} */ one) => one.times.map((/** @type {number} */ time, /** @type {number} */ at) => [named(one.name), time, one.shares[at]]));
    const few = curves.length > shown.length ? ` The first ${shown.length} of ${curves.length} networks.` : "";
    const lowest = Math.min(...shown.flatMap((/** @type {any} */ one) => one.shares.filter((/** @type {number} */ share) => share > 0)), 0.5);
    return figure(
      "Dwells",
      `Share of visits that last longer (Kaplan–Meier), beside the exponential of the same rate: a straight line forgets, a bent one holds on.${few}`,
      lineChart({ title: "Dwells", x: { label: "dwell (steps)", low: 0 }, y: { label: "survival", log: true, low: lowest / 1.5, high: 1 }, series }),
      numbersOf(heads, rows),
    );
  }

  /** @param {string} by */
  absorption(by) {
    const { names, runs, absorbed_at: found } = this.page.dynamics.by[by];
    const last = Math.max(1, ...this.page.dynamics.bins);
    const order = largest(runs);
    const series = order.map((at, tone) => {
      const n = runs[at];
      const points = found[at].map((/** @type {number} */ step, /** @type {number} */ number) => [step, (number + 1) / n]);
      return { name: named(names[at]), points: /** @type {any} */ ([[0, 0], ...points, [last, found[at].length / n]]), tone, steps: true };
    });
    const heads = [{ title: by }, { title: "step", number: true }, { title: "runs absorbed", number: true }, { title: "of runs", number: true }];
    const rows = () => names.flatMap((/** @type {any} */ name, /** @type {number} */ at) => found[at].map((/** @type {number} */ step, /** @type {number} */ number) => [named(name), step, number + 1, runs[at]]));
    return figure(
      "Absorption",
      `Share of runs whose texts have come to a fixed point or a loop.${this.few(by, order)}`,
      lineChart({ title: "Absorption", x: { label: "step", low: 0 }, y: { label: "absorbed", percent: true, low: 0 }, series }),
      numbersOf(heads, rows),
    );
  }

  /** @param {string} by @param {"transit" | "drift"} what @param {string} title @param {string} caption */
  byStep(by, what, title, caption) {
    const { bins } = this.page.dynamics;
    const group = this.page.dynamics.by[by];
    const order = largest(group.runs);
    const series = order.map((at, tone) => ({ name: named(group.names[at]), points: Array.from(bins, (bin, number) => [bin, group[what][at][number]]), tone }));
    const heads = [{ title: by }, { title: "step", number: true }, { title: what, number: true }];
    const rows = () => group.names.flatMap((/** @type {any} */ name, /** @type {number} */ at) => Array.from(bins, (bin, number) => [named(name), bin, group[what][at][number]]));
    const y = what === "transit" ? { label: "in transit", percent: true, low: 0, high: 1 } : { label: "chord", low: 0 };
    return figure(title, `${caption}${this.few(by, order)}`, lineChart({ title, x: { label: "step" }, y, series: /** @type {any} */ (series) }), numbersOf(heads, rows));
  }

  /** @param {string} by @param {number[]} shown */
  few(by, shown) {
    const all = this.page.dynamics.by[by].n_all;
    return all > shown.length ? ` The ${shown.length} of ${all} ${by}s with most runs.` : "";
  }
}

/** The groups with most runs. @param {ArrayLike<number>} runs */
function largest(runs) {
  return Array.from(runs, (_, at) => at).sort((a, b) => runs[b] - runs[a] || a - b).slice(0, MOST_LINES);
}
