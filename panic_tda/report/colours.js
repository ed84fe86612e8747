/** Colours: clusters by the hues of Okabe and Ito, told apart further by lightness; everything else by the theme. */

/** Lightness, chroma and hue (OKLCH) of orange, sky, green, vermilion, blue, purple and yellow. */
const HUES = [
  [0.55, 0.145, 248],
  [0.72, 0.15, 62],
  [0.62, 0.125, 165],
  [0.69, 0.115, 345],
  [0.74, 0.11, 230],
  [0.61, 0.175, 42],
  [0.8, 0.15, 100],
];
const LEVELS = [0, -0.13, 0.1];

/** @type {Map<string, [number, number, number]>} */
const known = new Map();

/** Whether what is drawn stands on a dark ground. */
export function isDark() {
  const [red, green, blue] = themeColour("--ground");
  return red + green + blue < 384;
}

/**
 * The colour of a cluster as three bytes; outliers and no cluster are grey.
 * @param {number} label
 * @param {boolean} dark
 * @returns {[number, number, number]}
 */
export function colourOf(label, dark) {
  const key = `${label} ${dark}`;
  let found = known.get(key);
  if (!found) {
    found = label < 0 ? (dark ? [96, 96, 100] : [190, 190, 194]) : ofCluster(label, dark);
    known.set(key, found);
  }
  return found;
}

/** @param {number} label @param {boolean} dark */
function ofCluster(label, dark) {
  const [lightness, chroma, hue] = HUES[label % HUES.length];
  const level = LEVELS[Math.floor(label / HUES.length) % LEVELS.length];
  const lit = Math.min(0.86, Math.max(0.38, lightness + level + (dark ? 0.06 : 0)));
  return toRgb(lit, chroma * (level > 0 ? 0.8 : 1), hue);
}

/**
 * OKLCH to sRGB (Ottosson's matrices).
 * @param {number} lightness @param {number} chroma @param {number} hue
 * @returns {[number, number, number]}
 */
function toRgb(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const [red, green, blue] = linear.map((value) => {
    const clipped = Math.min(1, Math.max(0, value));
    return Math.round(255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055));
  });
  return [red, green, blue];
}

/** @param {number[]} rgb @param {number} [alpha] */
export function css(rgb, alpha = 1) {
  return `rgb(${rgb[0]} ${rgb[1]} ${rgb[2]} / ${alpha})`;
}

/** Whether the page is being printed: it is light then, as wide as paper, and all there. */
export function isOnPaper() {
  return document.documentElement.classList.contains("paper");
}

/** Pixels of a canvas in one of the page: three on paper, where a screen's would be seen. */
export function pixelRatio() {
  return isOnPaper() ? 3 : devicePixelRatio;
}

/** @type {HTMLElement | null} */
let probe = null;

/**
 * A colour of the style sheet, as the theme has it now.
 * @param {string} name
 * @returns {[number, number, number]}
 */
export function themeColour(name) {
  probe ??= document.body.appendChild(document.createElement("i"));
  probe.hidden = true;
  probe.style.color = `var(${name})`;
  const [red = 0, green = 0, blue = 0] = (getComputedStyle(probe).color.match(/[\d.]+/g) ?? []).map(Number);
  return [red, green, blue];
}

/**
 * @param {number[]} from @param {number[]} to @param {number} share
 * @returns {[number, number, number]}
 */
export function mixed(from, to, share) {
  const at = (/** @type {number} */ part) => Math.round(from[part] + (to[part] - from[part]) * share);
  return [at(0), at(1), at(2)];
}
