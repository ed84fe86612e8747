/** Points in the plane: drawn in one go, found again under the pointer. */
import { colourOf, css } from "./colours.js";
import { quadtree } from "./vendor/d3-quadtree/d3-quadtree.mjs";

/** @typedef {import("./container.js").MapData} Plane */

const EXTENT = 65536;

/** Where the map is looked at: the middle in map units, and how much larger than whole. */
export class View {
  constructor() {
    this.x = EXTENT / 2;
    this.y = EXTENT / 2;
    this.zoom = 1;
    this.width = 1;
    this.height = 1;
    /** What the points take up. */
    this.span = { left: 0, right: EXTENT, top: 0, bottom: EXTENT };
  }

  /** Show all points. */
  reset() {
    this.x = (this.span.left + this.span.right) / 2;
    this.y = (this.span.top + this.span.bottom) / 2;
    this.zoom = 1;
  }

  get scale() {
    const { left, right, top, bottom } = this.span;
    return 0.9 * this.zoom * Math.min(this.width / Math.max(1, right - left), this.height / Math.max(1, bottom - top));
  }

  /** @param {number} x */
  toX(x) {
    return (x - this.x) * this.scale + this.width / 2;
  }

  /** @param {number} y */
  toY(y) {
    return (this.y - y) * this.scale + this.height / 2;
  }

  /** @param {number} px @param {number} py @returns {[number, number]} */
  from(px, py) {
    return [(px - this.width / 2) / this.scale + this.x, this.y - (py - this.height / 2) / this.scale];
  }

  /** Zoom so that what is under the pointer stays there. @param {number} factor @param {number} px @param {number} py */
  zoomAt(factor, px, py) {
    const [x, y] = this.from(px, py);
    this.zoom = Math.min(400, Math.max(0.5, this.zoom * factor));
    const [newX, newY] = this.from(px, py);
    this.x += x - newX;
    this.y += y - newY;
  }

  say() {
    return `${Math.round(this.x)},${Math.round(this.y)},${this.zoom.toFixed(2)}`;
  }

  /** @param {string} said */
  read(said) {
    const [x, y, zoom] = said.split(",").map(Number);
    if (!(zoom > 0) || !Number.isFinite(x + y)) return this.reset();
    this.x = x;
    this.y = y;
    this.zoom = Math.min(400, Math.max(0.5, zoom));
  }
}

export class Scatter {
  /** @param {Plane} plane */
  constructor(plane) {
    this.plane = plane;
    this.n = plane.n;
    const byLabel = Array.from({ length: this.n }, (_, at) => at).sort((a, b) => plane.labels[a] - plane.labels[b] || b - a);
    /** Points by label, outliers first, and of one label the first point last. */
    this.order = Uint32Array.from(byLabel);
    const places = new Set(byLabel.map((at) => plane.x[at] * EXTENT + plane.y[at])).size;
    /** In pixels, where the whole map is seen: copies lie at one place, and few places can be large. */
    this.size = places > 20000 ? 1.1 : places > 5000 ? 1.7 : places > 500 ? 2.6 : 4;
    this.hasClusters = this.n > 0 && plane.labels[byLabel[this.n - 1]] >= 0;
    // Of points in one place the last one added is found: a member of a cluster says more than an outlier.
    this.tree = quadtree(this.order, (/** @type {number} */ at) => plane.x[at], (/** @type {number} */ at) => plane.y[at]);
  }

  /**
   * Return the point nearest to a place, or -1 where none is within some map units.
   * @param {number} x @param {number} y @param {number} reach
   */
  nearest(x, y, reach) {
    return this.tree.find(x, y, reach) ?? -1;
  }

  /** Radius of points in pixels. @param {View} view */
  radius(view) {
    return this.size * Math.min(2.4, Math.max(1, Math.sqrt(Math.sqrt(view.zoom))));
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {View} view
   * @param {{selected: number | null, dim: boolean, dark: boolean}} how
   */
  draw(context, view, { selected, dim, dark }) {
    const { order, plane, n } = this;
    const radius = this.radius(view);
    const round = n <= 12000;
    let at = 0;
    while (at < n) {
      const label = plane.labels[order[at]];
      const faded = (selected !== null && label !== selected) || dim;
      const alpha = label < 0 && this.hasClusters ? (faded ? 0.25 : 0.5) : faded ? 0.28 : 0.85;
      context.fillStyle = css(colourOf(label, dark), alpha);
      const size = label < 0 ? radius * 0.75 : label === selected ? radius * 1.25 : radius;
      context.beginPath();
      for (; at < n && plane.labels[order[at]] === label; at++) {
        const px = view.toX(plane.x[order[at]]);
        const py = view.toY(plane.y[order[at]]);
        if (px < -4 || py < -4 || px > view.width + 4 || py > view.height + 4) continue;
        if (round) {
          context.moveTo(px + size, py);
          context.arc(px, py, size, 0, 7);
        } else context.fillRect(px - size, py - size, 2 * size, 2 * size);
      }
      if (round) context.fill();
    }
  }
}
