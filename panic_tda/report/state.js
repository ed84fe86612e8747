/**
 * What is chosen, and who wants to know. All of it stands in the address behind #, so that a colleague who
 * opens the same address sees the same.
 *
 * @typedef {object} Choice
 * @property {number | null} cluster
 * @property {number | null} run
 * @property {number | null} step    place in the run
 * @property {string} q
 * @property {string} sort           a column, with - before it where it falls
 * @property {string} network        number, or nothing for all
 * @property {string} prompt
 * @property {string} order
 * @property {string} group
 * @property {string} by
 * @property {string} view           x, y and zoom of the map
 * @property {string} theme
 */

/** @type {Choice} */
const PLAIN = {
  cluster: null,
  run: null,
  step: null,
  q: "",
  sort: "-size",
  network: "",
  prompt: "",
  order: "similar",
  group: "",
  by: "network",
  view: "",
  theme: "",
};

/** @type {Choice} */
export const chosen = { ...PLAIN };

/** @type {((changed: Set<string>) => void)[]} */
const listeners = [];

/** @param {(changed: Set<string>) => void} listener */
export function whenChosen(listener) {
  listeners.push(listener);
}

/** @param {Partial<Choice>} some */
export function choose(some) {
  const changed = new Set(Object.keys(some).filter((name) => get(some, name) !== get(chosen, name)));
  if (!changed.size) return;
  Object.assign(chosen, some);
  writeAddress();
  for (const listener of listeners) listener(changed);
}

/** Let everything be drawn anew. */
export function drawAnew() {
  for (const listener of listeners) listener(new Set(["theme"]));
}

/** @param {any} from @param {string} name */
function get(from, name) {
  return from[name];
}

let writing = 0;

/** Browsers allow some two hundred changes of the address in half a minute. */
function writeAddress() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const said = addressOf();
    if (said !== location.hash.slice(1)) history.replaceState(null, "", `#${said}`);
  }, 150);
}

/** @type {string[]} */
let runIds = [];
let nClusters = 0;

export function addressOf() {
  const said = new URLSearchParams();
  for (const name of Object.keys(PLAIN)) {
    const value = get(chosen, name);
    if (value === get(PLAIN, name)) continue;
    said.set(name, name === "run" ? runIds[value] : String(value));
  }
  return said.toString();
}

/**
 * Choose what the address says; what it says wrongly is as if it said nothing.
 * @param {string[]} runs
 * @param {number} clusters
 */
export function readAddress(runs, clusters) {
  runIds = runs;
  nClusters = clusters;
  addEventListener("hashchange", () => choose(fromAddress()));
  Object.assign(chosen, fromAddress());
}

/** @returns {Choice} */
function fromAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  /** @type {any} */
  const found = { ...PLAIN };
  for (const [name, value] of said) {
    if (!(name in PLAIN)) continue;
    if (name === "run") {
      const digits = value.toLowerCase();
      const at = runIds.findIndex((id) => digits && (id.startsWith(digits) || id.replaceAll("-", "").startsWith(digits)));
      found.run = at < 0 ? null : at;
    } else if (name === "cluster" || name === "step") {
      const number = /^\d+$/.test(value) ? Number(value) : null;
      found[name] = name === "cluster" && number !== null && number >= nClusters ? null : number;
    } else found[name] = value;
  }
  return found;
}

/** Bring a section into sight. @param {string} id */
export function goTo(id) {
  document.getElementById(id)?.scrollIntoView({ block: "start" });
}
