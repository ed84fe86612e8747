/** The table of clusters, and the card of the chosen one. */
import { colourOf, css, isDark, isOnPaper } from "./colours.js";
import { asTsv, byId, copyButton, counted, decimal, el, oneLine, percent, short, whole } from "./dom.js";
import { imageOf } from "./images.js";
import { medoidText } from "./map.js";
import { choose, chosen, whenChosen } from "./state.js";

/** @typedef {import("./container.js").Page} ReportPage */

const ROW = 34;
/** Beyond so many rows only those in sight are in the document. */
const MOST_ROWS = 500;
const AROUND = 12;

/** A dot in the colour of a cluster. @param {number} label */
export function swatch(label) {
  const dot = el("span", { class: "swatch" });
  dot.style.background = css(colourOf(label, isDark()));
  return dot;
}

export class ClusterSection {
  /** @param {ReportPage} page */
  constructor(page) {
    this.page = page;
    const { sizes, persistence, runs, prompts, largest_run_shares: shares, words, median_dwells: dwells, entered, copies } = page.clusters;
    const total = page.head.n_embeddings;
    /** @type {{key: string, title: string, number: boolean, value: (label: number) => any, show: (value: any) => string}[]} */
    this.columns = [
      { key: "label", title: "cluster", number: true, value: (label) => label, show: String },
      { key: "size", title: "size", number: true, value: (label) => sizes[label], show: whole },
      { key: "share", title: "share", number: true, value: (label) => sizes[label] / total, show: percent },
      { key: "persistence", title: "persistence", number: true, value: (label) => persistence[label], show: decimal },
      { key: "runs", title: "runs", number: true, value: (label) => runs[label], show: whole },
      { key: "prompts", title: "prompts", number: true, value: (label) => prompts[label], show: whole },
      { key: "onerun", title: "one run", number: true, value: (label) => shares[label], show: percent },
      { key: "dwell", title: "median dwell", number: true, value: (label) => dwells[label], show: short },
      { key: "entered", title: "entered", number: true, value: (label) => entered[label], show: whole },
      { key: "copies", title: "copies", number: true, value: (label) => copies[label], show: whole },
      { key: "words", title: "words", number: false, value: (label) => words[label], show: String },
      { key: "text", title: "medoid", number: false, value: (label) => medoidText(page, label), show: (text) => oneLine(text, 160) },
    ];
    this.folded = Array.from(sizes, (_, label) => `${medoidText(page, label)} ${words[label]}`.toLowerCase());
    /** @type {number[]} */
    this.labels = [];
    /** Which rows are in the document. */
    this.shown = "";
    /** @type {any[]} */
    this.heads = [];
    this.build();
    this.arrange();
    this.card();
    whenChosen((changed) => this.changed(changed));
  }

  build() {
    this.search = el("input", { type: "search", id: "search", placeholder: "Search medoids and words, or #12", "aria-label": "Search clusters", oninput: () => choose({ q: this.search.value }) });
    this.search.value = chosen.q;
    this.count = el("span", { class: "said", id: "cluster-count" });
    byId("cluster-controls").append(this.search, this.count, copyButton(() => this.tsv()));
    this.heads = this.columns.map(({ key, title, number }) => el("th", { scope: "col", class: number ? "number" : "wide", data: { key } }, el("button", { type: "button", onclick: () => this.sortBy(key) }, title)));
    this.body = el("tbody");
    this.box = el("div", { class: "scroll rows", tabIndex: 0, id: "cluster-rows" }, el("table", { class: "clusters" }, el("thead", {}, el("tr", {}, ...this.heads)), this.body));
    byId("cluster-table").append(this.box);
    this.box.addEventListener("scroll", () => this.fill());
    new ResizeObserver(() => this.fill(true)).observe(this.box);
  }

  /** @param {string} key */
  sortBy(key) {
    const falling = chosen.sort === `-${key}` ? false : chosen.sort === key || !["label", "text", "words"].includes(key);
    choose({ sort: falling ? `-${key}` : key });
  }

  /** Search and sort; what has no value comes last, and ties go by label. */
  arrange() {
    const words = chosen.q.toLowerCase().split(/\s+/).filter(Boolean);
    const named = this.columns.find(({ key }) => key === chosen.sort.replace("-", ""));
    const column = named ?? this.columns[1];
    const falling = !named || chosen.sort.startsWith("-");
    /** @type {number[]} */
    const found = [];
    for (let label = 0; label < this.folded.length; label++) {
      // A number after # is a cluster's own.
      if (words.every((word) => (/^#\d+$/.test(word) ? label === Number(word.slice(1)) : this.folded[label].includes(word)))) found.push(label);
    }
    const values = found.map((label) => column.value(label));
    const order = found.map((_, at) => at).sort((a, b) => {
      const [left, right] = [values[a], values[b]];
      if (left === null || right === null) return Number(left === null) - Number(right === null) || a - b;
      const compared = typeof left === "string" ? left.localeCompare(right, "en") : left - right;
      return (falling ? -compared : compared) || a - b;
    });
    this.labels = order.map((at) => found[at]);
    this.count.textContent = words.length ? `${whole(this.labels.length)} of ${whole(this.folded.length)}` : counted(this.folded.length, "cluster");
    for (const head of this.heads) {
      const sorted = head.dataset.key === column.key;
      head.setAttribute("aria-sort", sorted ? (falling ? "descending" : "ascending") : "none");
    }
    this.shown = "";
    this.fill(true);
  }

  /** Put the rows in sight into the document, and all of them on paper. @param {boolean} [anew] */
  fill(anew = false) {
    const n = this.labels.length;
    const virtual = n > MOST_ROWS && !isOnPaper();
    const first = virtual ? Math.max(0, Math.floor(this.box.scrollTop / ROW) - AROUND) : 0;
    const last = virtual ? Math.min(n, first + Math.ceil(this.box.clientHeight / ROW) + 2 * AROUND) : n;
    const now = `${first} ${last}`;
    if (!anew && now === this.shown) return;
    this.shown = now;
    const gap = (/** @type {number} */ rows) => {
      const row = el("tr", { class: "gap", "aria-hidden": "true" }, el("td", { colSpan: this.columns.length }));
      row.style.height = `${rows * ROW}px`;
      return row;
    };
    this.body.replaceChildren(
      ...(first ? [gap(first)] : []),
      ...this.labels.slice(first, last).map((label) => this.row(label)),
      ...(last < n ? [gap(n - last)] : []),
    );
  }

  /** @param {number} label */
  row(label) {
    const cells = this.columns.map(({ key, number, value, show }) => {
      const text = show(value(label));
      if (key === "label") return el("td", { class: "number" }, swatch(label), text);
      return number ? el("td", { class: "number" }, text) : el("td", { class: "wide", title: text }, el("div", { class: "two-lines", dir: "auto" }, text));
    });
    const row = el("tr", { data: { label: String(label) }, "aria-selected": String(label === chosen.cluster), onclick: () => choose({ cluster: label === chosen.cluster ? null : label }) }, ...cells);
    return row;
  }

  tsv() {
    return asTsv(this.columns, this.labels.map((label) => this.columns.map(({ key, value }) => (key === "text" ? oneLine(value(label)) : value(label)))));
  }

  /** Go to the cluster above or below. @param {number} by */
  step(by) {
    if (!this.labels.length) return;
    const at = chosen.cluster === null ? (by > 0 ? -1 : 0) : this.labels.indexOf(chosen.cluster);
    choose({ cluster: this.labels[(at + by + this.labels.length) % this.labels.length] });
  }

  /** @param {Set<string>} changed */
  changed(changed) {
    if (changed.has("q")) {
      if (this.search.value !== chosen.q) this.search.value = chosen.q;
      this.box.scrollTop = 0;
    }
    if (changed.has("q") || changed.has("sort") || changed.has("theme")) this.arrange();
    if (changed.has("cluster")) {
      this.fill(true);
      this.reveal();
    }
    if (changed.has("cluster") || changed.has("theme")) this.card();
  }

  /** Scroll the chosen row into sight, within the table alone. */
  reveal() {
    const at = chosen.cluster === null ? -1 : this.labels.indexOf(chosen.cluster);
    if (at < 0) return;
    const top = at * ROW;
    const seen = this.box.clientHeight - 2 * ROW;
    if (top < this.box.scrollTop || top > this.box.scrollTop + seen) this.box.scrollTop = Math.max(0, top - seen / 2);
  }

  card() {
    const label = chosen.cluster;
    const bar = byId("chosen");
    bar.hidden = label === null;
    if (label === null) {
      byId("card").replaceChildren(el("p", { class: "faint" }, this.page.clusters.sizes.length ? "Choose a cluster on the map, in the table, in the tree or in a run: everything shows it." : "There are no clusters: every embedding is an outlier."));
      return;
    }
    const { page } = this;
    const text = medoidText(page, label);
    bar.replaceChildren(
      swatch(label),
      el("strong", {}, `Cluster ${label}`),
      el("span", { class: "grow", dir: "auto" }, oneLine(text, 120)),
      el("button", { type: "button", class: "quiet", onclick: () => this.step(-1), "aria-label": "Cluster above" }, "↑"),
      el("button", { type: "button", class: "quiet", onclick: () => this.step(1), "aria-label": "Cluster below" }, "↓"),
      el("button", { type: "button", class: "quiet", onclick: () => choose({ cluster: null }), "aria-label": "Choose none" }, "✕"),
    );
    const facts = this.columns.filter(({ number, key }) => number && key !== "label").flatMap(({ title, value, show }) => [el("dt", {}, title), el("dd", {}, show(value(label)))]);
    byId("card").replaceChildren(
      el("h3", {}, swatch(label), `Cluster ${label}`),
      imageOf(page, label) ?? "",
      el("blockquote", { dir: "auto" }, text),
      el("p", { class: "faint", dir: "auto" }, page.clusters.words[label]),
      el("dl", { class: "facts" }, ...facts),
      ...this.examples("Nearest to the medoid", page.clusters.near[label]),
      ...this.examples("Farthest from it", page.clusters.far[label]),
    );
  }

  /** @param {string} title @param {[number, number][]} found */
  examples(title, found) {
    if (!found.length) return [];
    return [
      el("h4", {}, title),
      el("ul", { class: "examples" }, ...found.map(([text, chord]) => el("li", {}, el("span", { class: "number" }, decimal(chord)), el("span", { dir: "auto" }, oneLine(this.page.texts[text], 160) || "(no text)")))),
    ];
  }
}
