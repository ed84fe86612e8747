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

/**
 * What is chosen by name: each name, and how it is called. Lists, not objects: a name in an address may be
 * that of something every object has.
 * @type {{[name in "order" | "group" | "by" | "theme"]: [string, string][]}}
 */
export const CHOICES = {
  order: [["similar", "by similarity"], ["absorbed", "by absorption"], ["name", "by name"]],
  group: [["", "none"], ["network", "by network"], ["prompt", "by prompt"]],
  by: [["network", "network"], ["prompt", "prompt"], ["network,prompt", "network and prompt"]],
  theme: [["", "Auto"], ["light", "Light"], ["dark", "Dark"]],
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

/** What there is to choose from. @type {{runIds: string[], nClusters: number, nNetworks: number, nPrompts: number}} */
let available = { runIds: [], nClusters: 0, nNetworks: 0, nPrompts: 0 };

export function addressOf() {
  const said = new URLSearchParams();
  for (const name of Object.keys(PLAIN)) {
    const value = get(chosen, name);
    if (value === get(PLAIN, name)) continue;
    said.set(name, name === "run" ? available.runIds[value] : String(value));
  }
  return said.toString();
}

/**
 * Choose what the address says; what it says wrongly is as if it said nothing.
 * @param {typeof available} there
 */
export function readAddress(there) {
  available = there;
  addEventListener("hashchange", () => choose(fromAddress()));
  Object.assign(chosen, fromAddress());
}

/** @returns {Choice} */
function fromAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  /** @type {any} */
  const found = { ...PLAIN };
  for (const [name, value] of said) {
    if (!Object.hasOwn(PLAIN, name)) continue;
    const meant = meaningOf(name, value);
    if (meant !== undefined) found[name] = meant;
  }
  return found;
}

/**
 * What a value of the address means; undefined where it means nothing.
 * @param {string} name @param {string} value
 * @returns {string | number | undefined}
 */
function meaningOf(name, value) {
  if (name === "run") {
    const digits = value.toLowerCase();
    const at = available.runIds.findIndex((id) => digits && (id.startsWith(digits) || id.replaceAll("-", "").startsWith(digits)));
    return at < 0 ? undefined : at;
  }
  if (Object.hasOwn(CHOICES, name)) return CHOICES[/** @type {keyof typeof CHOICES} */ (name)].some(([one]) => one === value) ? value : undefined;
  if (name === "q" || name === "sort" || name === "view") return value;
  if (!/^\d+$/.test(value)) return undefined;
  const [number, most] = [Number(value), new Map([["cluster", available.nClusters], ["network", available.nNetworks], ["prompt", available.nPrompts]]).get(name) ?? Infinity];
  return number >= most ? undefined : name === "cluster" || name === "step" ? number : String(number);
}

/** Bring a section into sight. @param {string} id */
export function goTo(id) {
  document.getElementById(id)?.scrollIntoView({ block: "start" });
}
