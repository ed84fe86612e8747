/** Opens the page: reads what it carries, then section by section, the map first. */
import { ClusterSection } from "./clusters.js";
import { readPage } from "./container.js";
import { showDensity, showSweep } from "./density.js";
import { isOnPaper } from "./colours.js";
import { byId, el } from "./dom.js";
import { DynamicsSection } from "./dynamics.js";
import { TreeSection } from "./icicle.js";
import { listenToKeys } from "./keyboard.js";
import { MapSection } from "./map.js";
import { CHOICES, choose, chosen, drawAnew, readAddress, whenChosen } from "./state.js";
import { StripSection } from "./strips.js";

function takeTheme() {
  const theme = isOnPaper() ? "light" : chosen.theme;
  document.documentElement.style.colorScheme = theme || "light dark";
  byId("theme-button").textContent = CHOICES.theme.find(([name]) => name === theme)?.[1] ?? "Auto";
}

function nextTheme() {
  const names = CHOICES.theme.map(([name]) => name);
  choose({ theme: names[(names.indexOf(chosen.theme) + 1) % names.length] });
}

/**
 * Paper shows what has to be opened or scrolled to on a screen, and nothing dark.
 * @param {{map: MapSection, clusters: ClusterSection, strips: StripSection}} parts
 */
function listenToPrinting({ map, clusters, strips }) {
  const facts = /** @type {HTMLDetailsElement} */ (document.querySelector(".facts-box"));
  let open = false;
  const turn = (/** @type {boolean} */ on) => {
    if (on === isOnPaper()) return;
    document.documentElement.classList.toggle("paper", on);
    if (on) open = facts.open;
    facts.open = on || open;
    takeTheme();
    drawAnew();
    // No frame is drawn between this and the print.
    map.resize();
    map.drawNow();
    clusters.fill(true);
    strips.arrange();
    strips.draw();
  };
  const paper = matchMedia("print");
  addEventListener("beforeprint", () => turn(true));
  addEventListener("afterprint", () => turn(paper.matches));
  paper.addEventListener("change", () => turn(paper.matches));
}

/** Let the browser show what is there before the next part. */
function breathe() {
  return new Promise((resolve) => setTimeout(resolve));
}

/** Mark the section in sight in the navigation. */
function followScroll() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.getAttribute("href")?.slice(1), link]));
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);
  // The address keeps what is chosen: a link goes to its section without a word of its own there.
  for (const [id, link] of links) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      byId(id ?? "").scrollIntoView();
    });
  }
}

async function open() {
  const page = await readPage(byId("carried").textContent);
  byId("carried").remove();
  const { ids, networks, prompts } = page.runs;
  readAddress({ runIds: ids, nClusters: page.clusters.sizes.length, nNetworks: networks.length, nPrompts: prompts.length });
  whenChosen((changed) => {
    if (changed.has("theme")) takeTheme();
  });
  takeTheme();
  const map = new MapSection(page);
  await breathe();
  const clusters = new ClusterSection(page);
  await breathe();
  new TreeSection(page);
  const strips = new StripSection(page);
  await breathe();
  new DynamicsSection(page);
  showDensity(page);
  showSweep(page);
  listenToKeys({ clusters, strips, map, theme: nextTheme });
  byId("theme-button").addEventListener("click", nextTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAnew);
  followScroll();
  listenToPrinting({ map, clusters, strips });
  // For whoever looks into the page with a console.
  Object.assign(globalThis, { report: Object.freeze({ page, chosen }) });
  document.documentElement.dataset.ready = "true";
}

open().catch((/** @type {Error} */ error) => {
  byId("failed").hidden = false;
  byId("failed").append(el("code", {}, String(error)));
  throw error;
});
