/** Keys, and the help that names them. */
import { byId } from "./dom.js";
import { choose, chosen, goTo } from "./state.js";

/**
 * @param {{clusters: {step: (by: number) => void, search: HTMLInputElement}, strips: {step: (by: number) => void}, map: {play: () => void}, theme: () => void}} parts
 */
export function listenToKeys({ clusters, strips, map, theme }) {
  const help = byId("help");
  const sections = [...document.querySelectorAll("main > section")].map((section) => section.id);
  /** @type {{[key: string]: () => void}} */
  const keys = {
    "/": () => {
      goTo("clusters");
      clusters.search.focus();
    },
    "?": () => (help.open ? help.close() : help.showModal()),
    ArrowDown: () => clusters.step(1),
    ArrowUp: () => clusters.step(-1),
    ArrowRight: () => strips.step(1),
    ArrowLeft: () => strips.step(-1),
    " ": () => map.play(),
    d: theme,
  };
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") return escape(event);
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const number = Number(event.key);
    if (number >= 1 && number <= sections.length) return goTo(sections[number - 1]);
    const act = Object.hasOwn(keys, event.key) ? keys[event.key] : undefined;
    if (!act || (event.key === " " && (chosen.run === null || isButton(event.target)))) return;
    event.preventDefault();
    act();
  });
  byId("help-button").addEventListener("click", () => help.showModal());
  help.addEventListener("click", (/** @type {MouseEvent} */ event) => {
    if (event.target === help) help.close();
  });
}

/** Esc takes back one thing at a time: what is typed, the run, the cluster. @param {KeyboardEvent} event */
function escape(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (isTyping(target)) {
    choose({ q: "" });
    target.blur();
  } else if (chosen.run !== null) choose({ run: null, step: null });
  else choose({ cluster: null });
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  return target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement || target instanceof HTMLInputElement;
}

/** @param {EventTarget | null} target */
function isButton(target) {
  return target instanceof HTMLButtonElement || (target instanceof HTMLElement && target.tagName === "SUMMARY");
}
