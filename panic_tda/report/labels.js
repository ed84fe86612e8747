/** Labels of places: the largest clusters first, none over another. */

/**
 * @typedef {{label: number, lines: string[], x: number, y: number}} Candidate in pixels
 * @typedef {{label: number, lines: string[], x: number, y: number, width: number, height: number}} Placed the upper left corner
 */

const LINE = 14;
const GAP = 4;

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

/**
 * Place labels over their points, in the order given, as long as there is room.
 * @param {Candidate[]} candidates
 * @param {(text: string) => number} measure
 * @param {{width: number, height: number, most: number}} room
 * @returns {Placed[]}
 */
export function placeLabels(candidates, measure, { width, height, most }) {
  /** @type {Placed[]} */
  const placed = [];
  for (const { label, lines, x, y } of candidates) {
    if (placed.length >= most) break;
    if (x < 0 || y < 0 || x > width || y > height) continue;
    const wide = Math.max(...lines.map(measure));
    const high = LINE * lines.length;
    const left = Math.min(Math.max(2, x - wide / 2), width - wide - 2);
    for (const top of [y - high - 6, y + 7]) {
      const box = { label, lines, x: left, y: top, width: wide, height: high };
      if (top < 2 || top + high > height - 2 || placed.some((other) => overlap(box, other))) continue;
      placed.push(box);
      break;
    }
  }
  return placed;
}

/** @param {Placed} a @param {Placed} b */
export function overlap(a, b) {
  return a.x < b.x + b.width + GAP && b.x < a.x + a.width + GAP && a.y < b.y + b.height + GAP && b.y < a.y + a.height + GAP;
}
