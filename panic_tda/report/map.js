/** The map: drag, zoom, point, choose, and follow a run through it. */
import { colourOf, css, isDark, isOnPaper, pixelRatio, themeColour } from "./colours.js";
import { byId, choice, counted, decimal, el, hideTip, oneLine, showTip, whole } from "./dom.js";
import { Crowd, inTwoLines, placeLabels } from "./labels.js";
import { listenToHands } from "./hands.js";
import { imageOf } from "./images.js";
import { Scatter, View } from "./scatter.js";
import { choose, chosen, whenChosen } from "./state.js";

/** @typedef {import("./container.js").Page} WholePage */

const REACH = 12;
const STEP_MILLISECONDS = 180;
const FONT = "500 11.5px system-ui, sans-serif";
const FLAGS = ["core", "transit", "entering"];

/** @param {WholePage} page @param {number} label */
export function medoidText(page, label) {
  const text = page.clusters.texts[label];
  return text < 0 || text === undefined ? "an image" : page.texts[text];
}

/** The beginning of the id of a run, as long as it takes to be no other's. @param {WholePage} page @param {number} run */
export function runName(page, run) {
  return page.runs.names[run];
}

/**
 * Where a run is on the map, step by step; null where its step is not among the points and in no cluster.
 * @param {WholePage} page @param {number} run
 * @returns {({x: number, y: number, exact: boolean, point: number} | null)[]}
 */
export function pathOfRun(page, run) {
  const { map, runs, clusters } = page;
  /** @type {Map<number, number>} */
  const points = new Map();
  for (let at = 0; at < map.n; at++) if (map.runs[at] === run) points.set(map.steps[at], at);
  const path = [];
  for (let at = runs.offsets[run]; at < runs.offsets[run + 1]; at++) {
    const point = points.get(runs.steps[at]);
    const stands = point ?? (runs.flags[at] === 0 ? clusters.points[runs.states[at]] : undefined);
    path.push(stands === undefined ? null : { x: map.x[stands], y: map.y[stands], exact: point !== undefined, point: stands });
  }
  return path;
}

export class MapSection {
  /** @param {WholePage} page */
  constructor(page) {
    this.page = page;
    this.box = byId("map-box");
    this.base = el("canvas", { class: "base" });
    this.over = el("canvas", { class: "over", tabIndex: 0, "aria-label": "Map of embeddings" });
    this.box.append(this.base, this.over);
    this.view = new View();
    this.scatter = new Scatter(page.map);
    this.measure();
    this.hovered = -1;
    this.playing = 0;
    /** Where the labels are, until something moves. @type {import("./labels.js").Placed[] | null} */
    this.placed = null;
    /** @type {ReturnType<typeof pathOfRun>} */
    this.path = [];
    this.order = Array.from({ length: page.clusters.sizes.length }, (_, label) => label);
    this.lines = this.order.map((label) => inTwoLines(oneLine(medoidText(page, label), 60)));
    this.controls();
    this.listen();
    this.view.reset();
    if (chosen.view) this.view.read(chosen.view);
    this.takeRun();
    whenChosen((changed) => this.changed(changed));
    new ResizeObserver(() => this.resize()).observe(this.box);
  }

  /** Note what the points take up. */
  measure() {
    const { x, y, n } = this.page.map;
    const span = this.view.span;
    if (!n) return;
    Object.assign(span, { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity });
    for (let at = 0; at < n; at++) {
      span.left = Math.min(span.left, x[at]);
      span.right = Math.max(span.right, x[at]);
      span.top = Math.min(span.top, y[at]);
      span.bottom = Math.max(span.bottom, y[at]);
    }
  }

  controls() {
    const { runs, map } = this.page;
    /** @type {[string, string][]} */
    const choices = runs.ids.length > 5000 ? [] : runs.names.map((name, run) => [String(run), `${name} ${oneLine(runs.prompts[runs.prompt[run]] ?? "", 40)}`]);
    const { element, select } = choice("Run", [["", "none"], ...choices], "", (value) => choose({ run: value === "" ? null : Number(value), step: null }));
    this.select = select;
    this.playButton = el("button", { type: "button", id: "play", onclick: () => this.play() }, "Play");
    this.slider = el("input", { type: "range", min: "0", value: "0", id: "step", "aria-label": "Step of the run", oninput: () => choose({ step: Number(this.slider.value) }) });
    this.said = el("span", { class: "said", id: "step-said", dir: "auto" });
    const reset = el("button", { type: "button", class: "quiet", onclick: () => this.home() }, "Whole map");
    byId("map-controls").append(element, this.playButton, this.slider, this.said, reset);
    const sampled = map.n < map.n_all ? `${whole(map.n)} of ${counted(map.n_all, "embedding")}, sampled evenly over steps and runs, all medoids among them` : `all ${counted(map.n, "embedding")}`;
    byId("map-caption").textContent = `Layout: ${map.method}; ${sampled}. Distances far apart mean little in two dimensions; neighbours do. Labels are the texts of medoids.`;
  }

  home() {
    this.view.reset();
    choose({ view: "" });
    this.draw();
  }

  listen() {
    this.over.addEventListener("pointerleave", () => this.unhover());
    this.over.addEventListener("dblclick", (/** @type {MouseEvent} */ event) => this.zoom(2, event.offsetX, event.offsetY));
    // A page is scrolled over a map more often than a map is zoomed: the wheel zooms with Ctrl, or once the map has the focus.
    this.over.addEventListener("wheel", (/** @type {WheelEvent} */ event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== this.over) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
    }, { passive: false });
    this.over.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "+" || event.key === "=") this.zoom(1.4, this.view.width / 2, this.view.height / 2);
      if (event.key === "-") this.zoom(1 / 1.4, this.view.width / 2, this.view.height / 2);
      if (event.key === "0") this.home();
    });
    listenToHands(this.over, {
      hover: (event) => this.hover(event),
      click: (event) => this.click(event),
      move: (from, to, factor) => {
        this.view.x -= (to.x - from.x) / this.view.scale;
        this.view.y += (to.y - from.y) / this.view.scale;
        this.view.zoomAt(factor, to.x, to.y);
        this.draw();
      },
      moved: () => choose({ view: this.view.say() }),
    });
  }

  /** @param {number} factor @param {number} px @param {number} py */
  zoom(factor, px, py) {
    this.view.zoomAt(factor, px, py);
    choose({ view: this.view.say() });
    this.draw();
  }

  /** The point under the pointer. @param {number} px @param {number} py */
  at(px, py) {
    const [x, y] = this.view.from(px, py);
    return this.scatter.nearest(x, y, REACH / this.view.scale);
  }

  /** @param {PointerEvent} event */
  hover(event) {
    const point = this.at(event.offsetX, event.offsetY);
    if (point !== this.hovered) {
      this.hovered = point;
      this.drawOver();
    }
    if (point < 0) return hideTip();
    showTip(event, this.describe(point));
  }

  unhover() {
    hideTip();
    if (this.hovered < 0) return;
    this.hovered = -1;
    this.drawOver();
  }

  /** @param {number} point */
  describe(point) {
    const { map, runs } = this.page;
    const label = map.labels[point];
    const text = map.texts[point];
    const run = map.runs[point];
    const place = label < 0 ? "outlier" : `cluster ${label}, probability ${decimal(map.probabilities[point] / 10000)}`;
    return [
      (text < 0 ? "" : page_text(this.page, text)) || "(no text)",
      run < 0 ? place : `${place} · run ${runName(this.page, run)}, step ${map.steps[point]}`,
      run < 0 ? null : el("div", { class: "faint", dir: "auto" }, oneLine(runs.prompts[runs.prompt[run]] ?? "", 80)),
      label < 0 ? null : imageOf(this.page, label),
    ];
  }

  /** @param {PointerEvent} event */
  click(event) {
    const labelled = (this.placed ?? []).find((box) => event.offsetX >= box.x && event.offsetX <= box.x + box.width && event.offsetY >= box.y && event.offsetY <= box.y + box.height);
    const point = this.at(event.offsetX, event.offsetY);
    // A label may lie over points of other clusters, which can be pointed at all the same.
    const pointed = point < 0 ? -1 : this.page.map.labels[point];
    const label = pointed >= 0 || !labelled ? pointed : labelled.label;
    choose({ cluster: label < 0 ? null : label });
    if (event.shiftKey && point >= 0 && this.page.map.runs[point] >= 0) choose({ run: this.page.map.runs[point], step: null });
  }

  /** @param {Set<string>} changed */
  changed(changed) {
    if (changed.has("run")) this.takeRun();
    if (changed.has("view") && chosen.view !== this.view.say()) this.view.read(chosen.view);
    if (changed.has("step")) this.saySteps();
    if (changed.has("cluster") || changed.has("theme") || changed.has("run") || changed.has("view")) this.draw();
    else if (changed.has("step")) this.drawOver();
  }

  takeRun() {
    this.stop();
    this.path = chosen.run === null ? [] : pathOfRun(this.page, chosen.run);
    this.select.value = chosen.run === null ? "" : String(chosen.run);
    this.slider.max = String(Math.max(0, this.path.length - 1));
    for (const one of [this.slider, this.playButton]) one.disabled = chosen.run === null;
    this.saySteps();
  }

  /** The place in the run up to which its path is drawn. */
  get until() {
    return Math.min(chosen.step ?? this.path.length - 1, this.path.length - 1);
  }

  saySteps() {
    const { runs, map } = this.page;
    this.slider.value = String(Math.max(0, this.until));
    if (chosen.run === null) {
      this.said.textContent = "";
      return;
    }
    const at = runs.offsets[chosen.run] + this.until;
    const here = this.path[this.until];
    const flag = FLAGS[runs.flags[at]];
    const state = runs.states[at] < 0 ? "no cluster" : `${flag === "core" ? "in" : flag} ${runs.states[at]}`;
    const text = here && here.exact && map.texts[here.point] >= 0 ? `: ${oneLine(this.page.texts[map.texts[here.point]], 70)}` : "";
    this.said.textContent = `step ${runs.steps[at]}, ${state}${text}`;
  }

  play() {
    if (this.playing) return this.stop();
    if (this.until >= this.path.length - 1) choose({ step: 0 });
    this.playButton.textContent = "Pause";
    this.playing = setInterval(() => {
      if (this.until >= this.path.length - 1) return this.stop();
      choose({ step: this.until + 1 });
    }, Math.max(16, Math.min(STEP_MILLISECONDS, 20000 / this.path.length)));
  }

  stop() {
    clearInterval(this.playing);
    this.playing = 0;
    if (this.playButton) this.playButton.textContent = "Play";
  }

  resize() {
    const { clientWidth, clientHeight } = this.box;
    if (!clientWidth) return;
    Object.assign(this.view, { width: clientWidth, height: clientHeight });
    for (const canvas of [this.base, this.over]) {
      canvas.width = Math.round(clientWidth * pixelRatio());
      canvas.height = Math.round(clientHeight * pixelRatio());
    }
    this.draw();
  }

  /** Draw at the next frame, once. */
  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.drawNow();
    });
  }

  drawNow() {
    this.drawBase();
    this.drawOver();
  }

  /** @param {HTMLCanvasElement} canvas */
  cleared(canvas) {
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    // Setting the width clears too. Clearing a rectangle of the upper canvas would go through to the lower one on paper.
    if (isOnPaper()) canvas.width = Math.round(this.view.width * pixelRatio());
    context.setTransform(pixelRatio(), 0, 0, pixelRatio(), 0, 0);
    if (!isOnPaper()) context.clearRect(0, 0, this.view.width, this.view.height);
    return context;
  }

  drawBase() {
    this.placed = null;
    this.scatter.draw(this.cleared(this.base), this.view, { selected: chosen.cluster, dim: chosen.run !== null, dark: isDark() });
  }

  drawOver() {
    const context = this.cleared(this.over);
    const [ink, ground] = [themeColour("--ink"), themeColour("--ground")];
    if (this.path.length) this.drawPath(context, ink, ground);
    this.drawLabels(context, ink, ground);
    if (this.hovered >= 0) this.ring(context, this.hovered, ink);
  }

  /** @param {CanvasRenderingContext2D} context @param {number} point @param {number[]} ink */
  ring(context, point, ink) {
    const { x, y } = this.page.map;
    context.strokeStyle = css(ink);
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(this.view.toX(x[point]), this.view.toY(y[point]), this.scatter.radius(this.view) + 3, 0, 7);
    context.stroke();
  }

  /** @param {CanvasRenderingContext2D} context @param {number[]} ink @param {number[]} ground */
  drawPath(context, ink, ground) {
    const { view, until } = this;
    const dark = isDark();
    const { runs } = this.page;
    const first = runs.offsets[chosen.run ?? 0];
    let before = null;
    context.lineWidth = 1.6;
    for (let at = 0; at <= until; at++) {
      const here = this.path[at];
      if (!here) continue;
      if (before) {
        context.strokeStyle = css(ink, 0.15 + 0.55 * (at / Math.max(1, until)));
        context.beginPath();
        context.moveTo(view.toX(before.x), view.toY(before.y));
        context.lineTo(view.toX(here.x), view.toY(here.y));
        context.stroke();
      }
      before = here;
    }
    for (let at = 0; at <= until; at++) {
      const here = this.path[at];
      if (!here) continue;
      context.beginPath();
      context.arc(view.toX(here.x), view.toY(here.y), at === until ? 6.5 : 3.6, 0, 7);
      context.fillStyle = css(here.exact ? colourOf(runs.flags[first + at] ? -1 : runs.states[first + at], dark) : ground);
      context.fill();
      context.lineWidth = at === until ? 2 : 1;
      context.strokeStyle = css(at === until ? ink : ground);
      context.stroke();
    }
  }

  /** @param {CanvasRenderingContext2D} context @param {number[]} ink @param {number[]} ground */
  drawLabels(context, ink, ground) {
    context.font = FONT;
    context.textBaseline = "top";
    this.placed ??= this.placeLabels(context);
    context.lineJoin = "round";
    for (const box of this.placed) {
      const faded = (chosen.cluster !== null && box.label !== chosen.cluster) || chosen.run !== null;
      if (box.far) this.leader(context, box, css(ink, faded ? 0.2 : 0.5));
      box.lines.forEach((line, number) => {
        const left = box.x + (box.width - context.measureText(line).width) / 2;
        context.lineWidth = 3.5;
        context.strokeStyle = css(ground, 0.85);
        context.strokeText(line, left, box.y + 14 * number);
        context.fillStyle = css(ink, faded ? 0.4 : 1);
        context.fillText(line, left, box.y + 14 * number);
      });
    }
  }

  /** Find room for the labels; the chosen cluster's comes first. @param {CanvasRenderingContext2D} context */
  placeLabels(context) {
    const { view, page, lines } = this;
    const { x, y, n } = page.map;
    const order = chosen.cluster === null ? this.order : [chosen.cluster, ...this.order];
    const candidates = [...new Set(order)].map((label) => {
      const point = page.clusters.points[label];
      return { label, lines: lines[label], x: view.toX(x[point]), y: view.toY(y[point]) };
    });
    const { width, height } = view;
    const crowd = new Crowd(width, height);
    for (let at = 0; at < n; at++) crowd.add(view.toX(x[at]), view.toY(y[at]));
    const most = Math.round((width * height) / 22000) + 4;
    return placeLabels(candidates, (text) => context.measureText(text).width, { width, height, most, crowd });
  }

  /** A line from a label to its point. @param {CanvasRenderingContext2D} context @param {import("./labels.js").Placed} box @param {string} colour */
  leader(context, { x, y, width, height, from }, colour) {
    context.strokeStyle = colour;
    context.lineWidth = 0.8;
    context.beginPath();
    context.moveTo(from[0], from[1]);
    context.lineTo(Math.min(x + width, Math.max(x, from[0])), Math.min(y + height, Math.max(y, from[1])));
    context.stroke();
  }
}

/** @param {WholePage} page @param {number} text */
function page_text(page, text) {
  return oneLine(page.texts[text], 200);
}
