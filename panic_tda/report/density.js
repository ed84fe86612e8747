/** Whether the outliers are real, and what other settings would give. */
import { histogram, lineChart, shareBars } from "./charts.js";
import { byId, copyButton, asTsv, counted, decimal, el, figure, numbersOf, oneLine, percent, plainTable, short, whole } from "./dom.js";

/** @typedef {import("./container.js").Page} SettingsPage */

const SHARE_HEADS = [{ title: "group" }, { title: "rows", number: true }, { title: "outlier share", number: true, show: percent }];

/** @param {SettingsPage} page */
export function showDensity(page) {
  const { density } = page;
  const box = byId("density-charts");
  if (!density) {
    box.replaceWith(el("p", { class: "faint" }, "Core distances are kept with the tree, and none was stored with this clustering."));
    return;
  }
  const { edges, all, outliers } = density.histogram;
  const bars = all.map((/** @type {number} */ value, /** @type {number} */ at) => ({ from: edges[at], to: edges[at + 1], value, inner: outliers[at] }));
  const heads = ["from", "to", "rows", "outliers"].map((title) => ({ title, number: true, show: short }));
  byId("density-said").textContent = dipText(page);
  box.append(
    figure(
      "Core distances",
      `Chord to neighbour number ${page.head.min_samples}, the embedding itself counted; grey ones are outliers.`,
      histogram({ title: "Core distances", x: { label: "core distance" }, y: { label: "embeddings" }, bars, names: ["embeddings", "outliers among them"] }),
      numbersOf(heads, () => bars.map((/** @type {any} */ bar) => [bar.from, bar.to, bar.value, bar.inner])),
    ),
    cuts("Outliers by min_samples", "min_samples", density.by_min_samples, page.head.min_samples, true),
    cuts("Outliers by smallest cluster size", "min_cluster_size", density.by_min_cluster_size, page.head.min_cluster_size, true),
    cuts("Outliers by epsilon", "epsilon", density.by_epsilon, page.head.epsilon, false),
    shares("Outliers by length of text", "In characters; each bar is a tenth of the texts.", density.by_text_length),
    shares("Outliers by output step", "Each bar is a tenth of the steps.", density.by_step),
    shares("Outliers by writer", "The model that wrote the text.", density.by_writer),
  );
}

/** @param {SettingsPage} page */
function dipText(page) {
  const { density } = page;
  if (!density) return "";
  const said = `${whole(density.n_outliers)} of ${counted(density.n_rows, "embedding")} ${density.n_outliers === 1 ? "is an outlier" : "are outliers"}; ${counted(density.n_distinct, "text is", "texts are")} distinct.`;
  if (!density.dip) return `${said} There is no dip test: it needs four embeddings, and the package diptest.`;
  const { statistic, p_value: p, n_rows: rows } = density.dip;
  return `${said} Hartigan's dip test on ${counted(rows, "embedding")}: dip ${decimal(statistic, 4)}, p ${decimal(p, 3)}.`;
}

/** @param {string} title @param {string} caption @param {any[]} found */
function shares(title, caption, found) {
  if (!found.length) return el("div", { hidden: true });
  const name = (/** @type {any} */ one) => (one.name === null ? (one.first === one.last ? short(one.first) : `${short(one.first)} to ${short(one.last)}`) : oneLine(one.name, 60));
  return figure(
    title,
    caption,
    shareBars(found.map((one) => ({ name: name(one), share: one.outlier_share, note: counted(one.n_rows, "embedding") }))),
    numbersOf(SHARE_HEADS, () => found.map((one) => [name(one), one.n_rows, one.outlier_share])),
  );
}

/** @param {string} title @param {string} key @param {any[]} found @param {number} stored @param {boolean} log */
function cuts(title, key, found, stored, log) {
  if (!found.length) return el("div", { hidden: true });
  const heads = [
    { title: key, number: true, show: short },
    { title: "clusters", number: true, show: whole },
    { title: "outliers", number: true, show: whole },
    { title: "outlier share", number: true, show: percent },
  ];
  return figure(
    title,
    "",
    lineChart({
      title,
      x: { label: key, log },
      y: { label: "outliers", percent: true, low: 0, high: 1 },
      series: [{ name: "", points: found.map((one) => [one[key], one.outlier_share]), dots: true }],
      marks: [{ x: stored, text: "chosen" }],
    }),
    numbersOf(heads, () => found.map((one) => [one[key], one.n_clusters, one.n_outliers, one.outlier_share])),
  );
}

const SWEEP_HEADS = [
  { title: "epsilon", number: true, show: short },
  { title: "min_cluster_size", number: true, show: whole },
  { title: "method" },
  { title: "clusters", number: true, show: whole },
  { title: "outliers", number: true, show: whole },
  { title: "largest", number: true, show: percent },
  { title: "persistence", number: true, show: (/** @type {number | null} */ value) => decimal(value, 3) },
  { title: "validity", number: true, show: (/** @type {number | null} */ value) => decimal(value, 3) },
  { title: "ARI stored", number: true, show: (/** @type {number | null} */ value) => decimal(value, 3) },
  { title: "ARI before", number: true, show: (/** @type {number | null} */ value) => decimal(value, 3) },
  { title: "cliff", show: (/** @type {boolean} */ value) => (value ? "cliff" : "") },
];

/** @param {SettingsPage} page */
export function showSweep(page) {
  const box = byId("sweep-charts");
  if (!page.sweep) {
    box.replaceWith(el("p", { class: "faint" }, "Other settings are cut from the tree, and none was stored with this clustering."));
    return;
  }
  const total = page.head.n_embeddings;
  for (const [key, log] of /** @type {[string, boolean][]} */ ([["epsilon", false], ["min_cluster_size", true]])) {
    const found = page.sweep[key];
    const stored = page.head[key];
    const title = key === "epsilon" ? "Epsilon" : "Smallest cluster size";
    const marks = [{ x: stored, text: "chosen" }];
    const x = { label: key, log };
    const rows = () => found.map((/** @type {any} */ one) => [one.epsilon, one.min_cluster_size, one.selection_method, one.n_clusters, one.n_outliers, one.largest_share, one.median_persistence, one.relative_validity, one.ari_stored, one.ari_previous, one.cliff]);
    const points = (/** @type {(one: any) => number} */ value) => found.map((/** @type {any} */ one) => [one[key], value(one)]);
    box.append(
      figure(`Clusters over ${key}`, "", lineChart({ title, x, y: { label: "clusters", low: 0 }, series: [{ name: "", points: points((one) => one.n_clusters), dots: true }], marks })),
      figure(`Outliers over ${key}`, "", lineChart({ title, x, y: { label: "outliers", percent: true, low: 0, high: 1 }, series: [{ name: "", points: points((one) => one.n_outliers / total), dots: true, tone: 5 }], marks })),
      el(
        "div",
        { class: "whole-row", data: { sweep: key } },
        copyButton(() => asTsv(SWEEP_HEADS, rows())),
        el("div", { class: "scroll" }, plainTable(SWEEP_HEADS, rows(), (row) => (found[row][key] === stored ? "stored" : ""))),
      ),
    );
  }
}
