/** Labels of places: the largest clusters first, none over another. */

/**
 * @typedef {{label: number, lines: string[], x: number, y: number}} Candidate in pixels
 * @typedef {{label: number, lines: string[], x: number, y: number, width: number, height: number, far: boolean, from: number[]}} Placed the upper left corner, and the point where far from it
 */

const LINE = 14;
const GAP = 4;
const SQUARE = 6;
const NEAR = 7;
/** Where a label may stand: across, down, and how far away. @type {[number, number, number][]} */
const PLACES = [NEAR, 22, 38].flatMap((away) => /** @type {[number, number, number][]} */ ([[0, -1, away], [0, 1, away], [1, 0, away], [-1, 0, away], [1, -1, away], [-1, -1, away], [1, 1, away], [-1, 1, away]]));

/**
 * Break a text into at most two lines of some characters.
 * @param {string} text
 * @param {number} [characters]
 * @returns {string[]}
 */
export function inTwoLines(text, characters = 22) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines[lines.length - 1];
    if (!line || line.length + 1 + word.length <= characters) {
      lines[lines.length - 1] = line ? `${line} ${word}` : word;
    } else lines.push(word);
  }
  if (lines.length > 2) lines[1] += "…";
  return lines.slice(0, 2).map((line) => (line.length <= characters + 2 ? line : `${[...line].slice(0, characters).join("")}…`));
}

/** How much of a picture is taken: points in each of its squares. */
export class Crowd {
  /** @param {number} width @param {number} height */
  constructor(width, height) {
    this.columns = Math.ceil(width / SQUARE) + 1;
    this.rows = Math.ceil(height / SQUARE) + 1;
    this.counts = new Uint32Array(this.columns * this.rows);
  }

  /** @param {number} x @param {number} y */
  add(x, y) {
    const [column, row] = [Math.floor(x / SQUARE), Math.floor(y / SQUARE)];
    if (column >= 0 && row >= 0 && column < this.columns && row < this.rows) this.counts[row * this.columns + column]++;
  }

  /** Squares under a box in which there are points. @param {{x: number, y: number, width: number, height: number}} box */
  under({ x, y, width, height }) {
    let found = 0;
    for (let row = Math.floor(y / SQUARE); row <= (y + height) / SQUARE; row++) {
      for (let column = Math.floor(x / SQUARE); column <= (x + width) / SQUARE; column++) {
        if (this.counts[row * this.columns + column] > 0) found++;
      }
    }
    return found;
  }
}

/**
 * Place labels beside their points, in the order given, as long as there is room, where they hide least.
 * @param {Candidate[]} candidates
 * @param {(text: string) => number} measure
 * @param {{width: number, height: number, most: number, crowd: Crowd}} room
 * @returns {Placed[]}
 */
export function placeLabels(candidates, measure, { width, height, most, crowd }) {
  /** @type {Placed[]} */
  const placed = [];
  for (const { label, lines, x, y } of candidates) {
    if (placed.length >= most) break;
    if (x < 0 || y < 0 || x > width || y > height) continue;
    const wide = Math.max(...lines.map(measure));
    const high = LINE * lines.length;
    /** @type {Placed | null} */
    let best = null;
    let least = Infinity;
    for (const [across, down, away] of PLACES) {
      const left = x + across * (wide / 2 + away) - wide / 2;
      const top = y + down * (high / 2 + away) - high / 2;
      if (left < 2 || top < 2 || left + wide > width - 2 || top + high > height - 2) continue;
      const box = { label, lines, x: left, y: top, width: wide, height: high, far: away > NEAR, from: [x, y] };
      if (placed.some((other) => overlap(box, other))) continue;
      const hidden = crowd.under(box) + away / NEAR;
      if (hidden < least) [best, least] = [box, hidden];
    }
    if (best) placed.push(best);
  }
  return placed;
}

/** @param {Placed} a @param {Placed} b */
export function overlap(a, b) {
  return a.x < b.x + b.width + GAP && b.x < a.x + a.width + GAP && a.y < b.y + b.height + GAP && b.y < a.y + a.height + GAP;
}
