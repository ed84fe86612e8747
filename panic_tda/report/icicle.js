/** The condensed tree as an icicle: width is size, height is distance, the chosen clusters in colour. */
import { colourOf, css, isDark, pixelRatio, themeColour } from "./colours.js";
import { byId, counted, decimal, el, hideTip, oneLine, showTip, whole } from "./dom.js";
import { medoidText } from "./map.js";
import { choose, chosen, whenChosen } from "./state.js";

/** @typedef {import("./container.js").Page} TreePage */

const MARGIN = { left: 48, right: 8, top: 10, bottom: 10 };

export class TreeSection {
  /** @param {TreePage} page */
  constructor(page) {
    this.page = page;
    const box = byId("tree-box");
    if (!page.tree) {
      box.replaceWith(el("p", { class: "faint" }, "No tree was stored with this clustering, or it has too few embeddings for one."));
      return;
    }
    this.tree = page.tree;
    this.canvas = el("canvas", { role: "img", "aria-label": "Condensed tree" });
    box.append(this.canvas);
    this.box = box;
    this.place();
    const { n_all: all, parents } = this.tree;
    byId("tree-caption").textContent =
      `${all > parents.length ? `The chosen and the largest ${whole(parents.length)} of ${whole(all)} branches` : counted(all, "branch", "branches")}. Each is as wide as it has embeddings and as high as the distances over which it lives; ` +
      "coloured ones were chosen as clusters, fainter ones in the same colour are parts of these. The dashed line is epsilon: below it nothing is divided.";
    this.canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", hideTip);
    this.canvas.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      const at = this.at(event.offsetX, event.offsetY);
      const label = at < 0 ? -1 : this.owner(at);
      choose({ cluster: label < 0 ? null : label });
    });
    whenChosen((changed) => {
      if (changed.has("cluster") || changed.has("theme")) this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(box);
  }

  /** Give every branch its share of its parent's width, the larger to the left. */
  place() {
    const { parents, sizes } = /** @type {import("./container.js").Tree} */ (this.tree);
    const n = parents.length;
    this.left = new Float64Array(n);
    /** @type {number[][]} */
    const children = Array.from({ length: n }, () => []);
    for (let at = 1; at < n; at++) children[parents[at]].push(at);
    for (let at = 0; at < n; at++) {
      let x = this.left[at];
      for (const child of children[at].sort((a, b) => sizes[b] - sizes[a] || a - b)) {
        this.left[child] = x;
        x += sizes[child];
      }
    }
  }

  scales() {
    const tree = /** @type {import("./container.js").Tree} */ (this.tree);
    const width = this.box.clientWidth;
    const height = this.box.clientHeight;
    const high = tree.births[0] || 1;
    const across = (width - MARGIN.left - MARGIN.right) / tree.sizes[0];
    const down = (height - MARGIN.top - MARGIN.bottom) / high;
    return { width, height, high, x: (/** @type {number} */ rows) => MARGIN.left + rows * across, y: (/** @type {number} */ chord) => MARGIN.top + (high - chord) * down };
  }

  /** The chosen cluster that a branch is or lies in. @param {number} at */
  owner(at) {
    const { labels, parents } = /** @type {import("./container.js").Tree} */ (this.tree);
    for (let one = at; ; one = parents[one]) {
      if (labels[one] >= 0 || one === 0) return labels[one];
    }
  }

  /** The lowest branch at a place, or -1. @param {number} px @param {number} py */
  at(px, py) {
    const tree = /** @type {import("./container.js").Tree} */ (this.tree);
    const { x, y } = this.scales();
    for (let at = tree.parents.length - 1; at >= 0; at--) {
      const left = /** @type {Float64Array} */ (this.left)[at];
      if (px >= x(left) && px <= x(left + tree.sizes[at]) && py >= y(tree.births[at]) && py <= y(tree.deaths[at])) return at;
    }
    return -1;
  }

  /** @param {PointerEvent} event */
  hover(event) {
    const tree = /** @type {import("./container.js").Tree} */ (this.tree);
    const at = this.at(event.offsetX, event.offsetY);
    if (at < 0) return hideTip();
    const label = tree.labels[at];
    const inside = this.owner(at);
    const what = label >= 0 ? `cluster ${label}` : inside >= 0 ? `part of cluster ${inside}` : at === 0 ? "everything" : "not chosen";
    showTip(event, [
      `${counted(tree.sizes[at], "embedding")}, ${what}`,
      `from ${decimal(tree.births[at], 3)} down to ${decimal(tree.deaths[at], 3)}`,
      inside < 0 ? null : oneLine(medoidText(this.page, inside), 120),
    ]);
  }

  draw() {
    const tree = /** @type {import("./container.js").Tree} */ (this.tree);
    const { width, height, high, x, y } = this.scales();
    if (width <= 0) return;
    this.canvas.width = width * pixelRatio();
    this.canvas.height = height * pixelRatio();
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.scale(pixelRatio(), pixelRatio());
    const dark = isDark();
    const [ink, faint, ground] = [themeColour("--ink"), themeColour("--faint"), themeColour("--ground")];
    this.axis(context, { width, high, y, faint });
    for (let at = 0; at < tree.parents.length; at++) {
      const left = /** @type {Float64Array} */ (this.left)[at];
      const wide = x(left + tree.sizes[at]) - x(left);
      const owner = this.owner(at);
      const own = tree.labels[at] >= 0;
      context.fillStyle = owner < 0 ? css(ink, 0.1 + 0.04 * (at === 0 ? 0 : 1)) : css(colourOf(owner, dark), chosen.cluster === null || chosen.cluster === owner ? (own ? 0.95 : 0.6) : 0.22);
      const top = y(tree.births[at]);
      context.fillRect(x(left), top, Math.max(0.7, wide), Math.max(1, y(tree.deaths[at]) - top));
      if (wide > 3) {
        context.strokeStyle = css(ground, 0.9);
        context.lineWidth = 0.75;
        context.strokeRect(x(left), top, wide, Math.max(1, y(tree.deaths[at]) - top));
      }
      if (own && wide > 24) this.name(context, tree.labels[at], x(left) + wide / 2, top, y(tree.deaths[at]), ground);
    }
    const epsilon = this.page.head.epsilon;
    if (epsilon > 0 && epsilon <= high) {
      context.strokeStyle = css(ink);
      context.setLineDash([5, 4]);
      context.lineWidth = 1.2;
      context.beginPath();
      context.moveTo(MARGIN.left, y(epsilon));
      context.lineTo(width - MARGIN.right, y(epsilon));
      context.stroke();
      context.setLineDash([]);
      context.fillStyle = css(ink);
      context.font = "11px system-ui, sans-serif";
      context.textAlign = "right";
      context.lineWidth = 3;
      context.strokeStyle = css(ground, 0.85);
      context.strokeText(`epsilon ${epsilon}`, width - MARGIN.right - 4, y(epsilon) - 5);
      context.fillText(`epsilon ${epsilon}`, width - MARGIN.right - 4, y(epsilon) - 5);
    }
    this.canvas.style.height = `${height}px`;
  }

  /** @param {CanvasRenderingContext2D} context @param {number} label @param {number} x @param {number} top @param {number} bottom @param {number[]} ground */
  name(context, label, x, top, bottom, ground) {
    if (bottom - top < 14) return;
    context.font = "600 11px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillStyle = css(ground);
    context.fillText(String(label), x, top + 12);
  }

  /** @param {CanvasRenderingContext2D} context @param {{width: number, high: number, y: (chord: number) => number, faint: number[]}} how */
  axis(context, { width, high, y, faint }) {
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    const step = high > 0.8 ? 0.2 : high > 0.3 ? 0.1 : high / 4;
    for (let chord = 0; chord <= high + 1e-9; chord += step) {
      context.fillStyle = css(faint);
      context.fillText(decimal(chord, step < 0.1 ? 3 : 1), MARGIN.left - 8, y(chord) + 4);
      context.fillStyle = css(faint, 0.25);
      context.fillRect(MARGIN.left, y(chord), width - MARGIN.left - MARGIN.right, 0.5);
    }
  }
}
