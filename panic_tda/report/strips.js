/** Each run as a strip: one colour a cluster, hatched and faint where the run is between clusters. */
import { colourOf, css, isDark, isOnPaper, mixed, pixelRatio, themeColour } from "./colours.js";
import { asTsv, byId, choice, copyButton, counted, el, hideTip, named, oneLine, showTip, whole } from "./dom.js";
import { medoidText, runName } from "./map.js";
import { CHOICES, choose, chosen, whenChosen } from "./state.js";

/** @typedef {import("./container.js").Page} RunsPage */
/** @typedef {{top: number, height: number, run: number, title: string}} Line a run, or the head of a group (run -1) */

const HEAD = 30;
const LEAST_GUTTER = 74;
const MARGIN_RIGHT = 30;
/** The widest that names are written in. */
const NAME_FONT = "700 11px ui-monospace, monospace";
const MOST_HEIGHT = 560;
/** Every so many pixels a line of a hatch. */
const HATCH = 5;
const MOST_PATTERNS = 400;
/** One sheet. */
const PAPER_HEIGHT = 780;
const KINDS = ["in its core", "in transit", "entering"];

export class StripSection {
  /** @param {RunsPage} page */
  constructor(page) {
    this.page = page;
    const { runs } = page;
    this.box = byId("strips-box");
    this.canvas = el("canvas", { role: "img", "aria-label": "Runs as strips of clusters" });
    this.spacer = el("div", { class: "spacer" });
    this.box.append(this.canvas, this.spacer);
    const n = runs.ids.length;
    this.rowHeight = n <= 80 ? 15 : n <= 500 ? 10 : 6;
    /** Pixels to the left of the strips, where the names stand. */
    this.gutter = LEAST_GUTTER;
    /** @type {number[]} */
    this.bySimilarity = new Array(n);
    for (let place = 0; place < n; place++) this.bySimilarity[runs.similar[place]] = place;
    let first = Infinity;
    let last = 0;
    for (let run = 0; run < n; run++) {
      first = Math.min(first, runs.steps[runs.offsets[run]]);
      last = Math.max(last, runs.steps[runs.offsets[run + 1] - 1]);
    }
    this.first = n ? first : 0;
    this.last = Math.max(this.first, last);
    this.spacing = page.groups.sampling;
    /** @type {Line[]} */
    this.lines = [];
    /** @type {number[]} */
    this.shown = [];
    /** @type {ImageData | undefined} */
    this.image = undefined;
    /** @type {Map<number, Uint32Array>} */
    this.patterns = new Map();
    this.look = "";
    this.controls();
    this.arrange();
    this.box.addEventListener("scroll", () => this.later());
    this.canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", hideTip);
    this.canvas.addEventListener("click", (/** @type {MouseEvent} */ event) => this.click(event));
    whenChosen((changed) => this.changed(changed));
    new ResizeObserver(() => this.later()).observe(this.box);
  }

  controls() {
    const { runs } = this.page;
    /** @param {any[]} names @returns {[string, string][]} */
    const all = (names) => [["", "all"], .../** @type {[string, string][]} */ (names.map((name, at) => [String(at), oneLine(named(name), 60)]))];
    const order = choice("Order", CHOICES.order, chosen.order, (value) => choose({ order: value }));
    const group = choice("Group", CHOICES.group, chosen.group, (value) => choose({ group: value }));
    const network = choice("Network", all(runs.networks), chosen.network, (value) => choose({ network: value }));
    const prompt = choice("Prompt", all(runs.prompts), chosen.prompt, (value) => choose({ prompt: value }));
    this.selects = { order, group, network, prompt };
    this.count = el("span", { class: "said", id: "run-count" });
    byId("strips-controls").append(order.element, group.element, network.element, prompt.element, this.count, copyButton(() => this.tsv()));
  }

  /** Filter, group and order the runs. */
  arrange() {
    const { runs } = this.page;
    /** @type {number[]} */
    const shown = [];
    for (let run = 0; run < runs.ids.length; run++) {
      if (chosen.network !== "" && runs.network[run] !== Number(chosen.network)) continue;
      if (chosen.prompt !== "" && runs.prompt[run] !== Number(chosen.prompt)) continue;
      shown.push(run);
    }
    const late = (/** @type {number} */ run) => (runs.absorbed_at[run] < 0 ? Infinity : runs.absorbed_at[run]);
    const groupOf = chosen.group === "network" ? runs.network : chosen.group === "prompt" ? runs.prompt : null;
    shown.sort((a, b) => {
      const apart = groupOf ? groupOf[a] - groupOf[b] : 0;
      if (apart) return apart;
      if (chosen.order === "name") return a - b;
      if (chosen.order === "absorbed" && late(a) !== late(b)) return late(a) - late(b);
      return this.bySimilarity[a] - this.bySimilarity[b];
    });
    this.shown = shown;
    this.lines = [];
    let top = 22;
    let before = NaN;
    for (const run of shown) {
      const group = groupOf ? groupOf[run] : NaN;
      if (groupOf && group !== before) {
        const name = chosen.group === "network" ? runs.networks[group] : runs.prompts[group];
        this.lines.push({ top, height: HEAD, run: -1, title: oneLine(named(name), 120) });
        top += HEAD;
        before = group;
      }
      this.lines.push({ top, height: this.rowHeight, run, title: "" });
      top += this.rowHeight;
    }
    this.total = top + 8;
    this.spacer.style.height = `${this.total}px`;
    const most = isOnPaper() ? PAPER_HEIGHT : MOST_HEIGHT;
    this.box.style.height = `${Math.min(most, this.total + 2)}px`;
    this.count.textContent = shown.length === runs.ids.length ? counted(shown.length, "run") : `${whole(shown.length)} of ${counted(runs.ids.length, "run")}`;
    const fit = this.lines.filter((line) => line.run >= 0 && line.top + line.height <= most).length;
    byId("strips-paper").textContent = `Runs ${CHOICES.order.find(([name]) => name === chosen.order)?.[1]}: ${fit < runs.ids.length ? `${whole(fit)} of ` : ""}${whole(runs.ids.length)}.`;
    this.later();
  }

  /** @param {Set<string>} changed */
  changed(changed) {
    if (["order", "group", "network", "prompt"].some((name) => changed.has(name))) {
      for (const [name, { select }] of Object.entries(/** @type {any} */ (this.selects))) select.value = /** @type {any} */ (chosen)[name];
      this.box.scrollTop = 0;
      this.arrange();
    }
    if (changed.has("run")) this.reveal();
    this.later();
  }

  reveal() {
    const line = this.lines.find(({ run }) => run === chosen.run);
    if (!line || chosen.run === null) return;
    const { scrollTop, clientHeight } = this.box;
    if (line.top < scrollTop || line.top + line.height > scrollTop + clientHeight) this.box.scrollTop = line.top - clientHeight / 2;
  }

  later() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }

  /** Lines in sight. */
  inSight() {
    const top = this.box.scrollTop;
    const bottom = top + this.box.clientHeight;
    const lines = this.lines;
    let low = 0;
    let high = lines.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (lines[middle].top + lines[middle].height < top) low = middle + 1;
      else high = middle;
    }
    const found = [];
    for (let at = low; at < lines.length && lines[at].top < bottom; at++) found.push(lines[at]);
    return found;
  }

  draw() {
    const width = this.box.clientWidth;
    const height = this.box.clientHeight;
    if (!width || !height) return;
    const ratio = pixelRatio();
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.width = `${width}px`;
      this.canvas.style.height = `${height}px`;
    }
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.measureNames(context, width);
    const theme = { ink: themeColour("--ink"), faint: themeColour("--faint"), ground: themeColour("--ground"), dark: isDark() };
    context.fillStyle = css(theme.ground);
    context.fillRect(0, 0, width, height);
    const lines = this.inSight();
    this.paint(context, lines, { width, height, ratio, theme });
    this.letter(context, lines, { width, theme });
  }

  /** Make room for the names of the runs, which are all of one length. @param {CanvasRenderingContext2D} context @param {number} width */
  measureNames(context, width) {
    context.font = NAME_FONT;
    const wide = this.page.runs.names.length ? context.measureText(this.page.runs.names[0]).width : 0;
    this.gutter = Math.round(Math.min(width / 2, Math.max(LEAST_GUTTER, wide + 8)));
  }

  /**
   * Fill the strips pixel by pixel, which is quicker than a rectangle a step.
   * @param {CanvasRenderingContext2D} context @param {Line[]} lines
   * @param {{width: number, height: number, ratio: number, theme: any}} how
   */
  paint(context, lines, { width, height, ratio, theme }) {
    const wide = Math.floor((width - this.gutter - MARGIN_RIGHT) * ratio);
    const high = Math.round(height * ratio);
    if (wide <= 0) return;
    if (this.image?.width !== wide || this.image.height !== high) this.image = context.createImageData(wide, high);
    const pixels = new Uint32Array(this.image.data.buffer).fill(asWord(theme.ground));
    const gap = this.rowHeight >= 10 ? Math.round(2 * ratio) : Math.round(ratio);
    for (const line of lines) {
      if (line.run < 0) continue;
      const pattern = this.patternOf(line.run, wide, theme);
      const top = Math.round((line.top - this.box.scrollTop) * ratio);
      const bottom = top + Math.round(line.height * ratio) - gap;
      for (let y = Math.max(0, top); y < Math.min(high, bottom); y++) {
        const from = ((y - top) % HATCH) * wide;
        pixels.set(pattern.subarray(from, from + wide), y * wide);
      }
    }
    context.putImageData(this.image, Math.round(this.gutter * ratio), 0);
  }

  /**
   * The lines of pixels of a run, which repeat; most runs in sight were so in the frame before.
   * @param {number} run @param {number} wide @param {any} theme
   */
  patternOf(run, wide, theme) {
    const look = [wide, asWord(theme.ground), theme.dark, chosen.cluster].join();
    if (look !== this.look || this.patterns.size > MOST_PATTERNS) {
      this.look = look;
      this.patterns.clear();
    }
    const known = this.patterns.get(run);
    if (known) return known;
    const row = new Uint32Array(wide);
    const hatched = new Uint32Array(wide);
    this.colourRow(run, row, hatched, theme);
    const pattern = new Uint32Array(HATCH * wide);
    for (let y = 0; y < HATCH; y++) {
      pattern.set(row, y * wide);
      for (let x = (HATCH - y) % HATCH; x < wide; x += HATCH) pattern[y * wide + x] = hatched[x];
    }
    this.patterns.set(run, pattern);
    return pattern;
  }

  /** @param {number} run @param {Uint32Array} row @param {Uint32Array} hatched @param {any} theme */
  colourRow(run, row, hatched, theme) {
    const { runs } = this.page;
    const ground = asWord(theme.ground);
    const end = runs.offsets[run + 1];
    const span = this.last - this.first + this.spacing;
    let at = runs.offsets[run];
    /** @type {number} */ let painted = -1;
    let [plain, lined] = [ground, ground];
    for (let x = 0; x < row.length; x++) {
      const step = this.first + (x / row.length) * span;
      while (at + 1 < end && runs.steps[at + 1] <= step) at++;
      const there = step >= runs.steps[at] && step < runs.steps[at] + this.spacing;
      const key = there ? at : -2;
      if (key !== painted) {
        painted = key;
        if (!there) plain = lined = ground;
        else {
          const state = runs.states[at];
          const dimmed = chosen.cluster !== null && state !== chosen.cluster;
          const colour = mixed(colourOf(state, theme.dark), theme.ground, dimmed ? 0.72 : 0);
          const core = runs.flags[at] === 0;
          plain = asWord(core ? colour : mixed(colour, theme.ground, 0.8));
          lined = asWord(core ? colour : mixed(colour, theme.ground, dimmed ? 0.6 : 0.35));
        }
      }
      row[x] = plain;
      hatched[x] = lined;
    }
  }

  /** @param {number} step @param {number} width */
  xOf(step, width) {
    return this.gutter + ((step - this.first) / (this.last - this.first + this.spacing)) * (width - this.gutter - MARGIN_RIGHT);
  }

  /** Names, axis and marks. @param {CanvasRenderingContext2D} context @param {Line[]} lines @param {{width: number, theme: any}} how */
  letter(context, lines, { width, theme }) {
    const { runs } = this.page;
    const scrolled = this.box.scrollTop;
    context.textBaseline = "middle";
    for (const line of lines) {
      const middle = line.top - scrolled + line.height / 2;
      if (line.run < 0) {
        context.font = "600 12.5px system-ui, sans-serif";
        context.textAlign = "left";
        context.fillStyle = css(theme.ink);
        context.fillText(line.title, 2, middle + 4, width - 8);
        continue;
      }
      const selected = line.run === chosen.run;
      if (this.rowHeight >= 10 || selected) {
        context.font = this.rowHeight >= 15 ? (selected ? NAME_FONT : NAME_FONT.replace("700 ", "")) : `${selected ? "700 " : ""}9.5px ui-monospace, monospace`;
        context.textAlign = "left";
        context.fillStyle = css(selected ? theme.ink : theme.faint);
        context.fillText(runName(this.page, line.run), 2, middle - 1, this.gutter - 4);
      }
      if (selected) {
        context.strokeStyle = css(theme.ink);
        context.lineWidth = 1.5;
        context.strokeRect(this.gutter - 1, line.top - scrolled - 1, width - this.gutter - MARGIN_RIGHT + 2, line.height);
      }
      const period = runs.period[line.run];
      if (period < 0) continue;
      const x = this.xOf(runs.absorbed_at[line.run], width);
      context.fillStyle = css(theme.ink);
      context.fillRect(x - 0.75, line.top - scrolled - 0.5, 1.5, line.height - 1);
      context.font = `${Math.min(11, this.rowHeight + 2)}px system-ui, sans-serif`;
      context.textAlign = "left";
      context.fillText(period === 1 ? "●" : `↻${period}`, width - MARGIN_RIGHT + 4, middle - 1);
    }
    this.scale(context, width, theme);
  }

  /** @param {CanvasRenderingContext2D} context @param {number} width @param {any} theme */
  scale(context, width, theme) {
    context.fillStyle = css(theme.ground, 0.92);
    context.fillRect(0, 0, width, 20);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = css(theme.faint);
    context.textAlign = "left";
    context.fillText("step", 2, 10);
    context.textAlign = "center";
    const span = this.last - this.first;
    const rough = span / 6;
    const power = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
    const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
    for (let at = Math.ceil(this.first / step) * step; at <= this.last; at += step) context.fillText(whole(at), this.xOf(at + this.spacing / 2, width), 10);
  }

  /** @param {MouseEvent} event */
  at(event) {
    const y = event.offsetY + this.box.scrollTop;
    const line = this.inSight().find(({ top, height }) => y >= top && y < top + height);
    if (!line || line.run < 0 || event.offsetY < 20) return null;
    const { runs } = this.page;
    const wide = this.box.clientWidth - this.gutter - MARGIN_RIGHT;
    const step = this.first + ((event.offsetX - this.gutter) / wide) * (this.last - this.first + this.spacing);
    let at = runs.offsets[line.run];
    while (at + 1 < runs.offsets[line.run + 1] && runs.steps[at + 1] <= step) at++;
    return { run: line.run, at, inside: event.offsetX >= this.gutter && event.offsetX <= this.gutter + wide };
  }

  /** @param {PointerEvent} event */
  hover(event) {
    const found = this.at(event);
    if (!found) return hideTip();
    const { runs } = this.page;
    const { run, at } = found;
    const state = runs.states[at];
    const ending = runs.period[run] < 0 ? null : `${runs.period[run] === 1 ? "fixed point" : `loop of ${runs.period[run]}`} from step ${runs.absorbed_at[run]} on`;
    showTip(event, [
      state < 0 ? "never in a cluster" : `cluster ${state}, ${KINDS[runs.flags[at]]}: ${oneLine(medoidText(this.page, state), 100)}`,
      `run ${runName(this.page, run)}, step ${runs.steps[at]}`,
      `${oneLine(named(runs.networks[runs.network[run]]), 60)} · ${oneLine(named(runs.prompts[runs.prompt[run]]), 80)}`,
      ending,
    ]);
  }

  /** @param {MouseEvent} event */
  click(event) {
    const found = this.at(event);
    if (!found) return;
    const { runs } = this.page;
    const state = runs.states[found.at];
    if (found.inside && state >= 0) choose({ run: found.run, step: found.at - runs.offsets[found.run], cluster: state });
    else choose({ run: found.run === chosen.run ? null : found.run, step: null });
  }

  /** Go to the run above or below. @param {number} by */
  step(by) {
    const shown = this.shown;
    if (!shown.length) return;
    const at = chosen.run === null ? (by > 0 ? -1 : 0) : shown.indexOf(chosen.run);
    choose({ run: shown[(at + by + shown.length) % shown.length], step: null });
  }

  tsv() {
    const { runs } = this.page;
    const none = (/** @type {number} */ value) => (value < 0 ? null : value);
    const heads = ["run_id", "network", "prompt", "seed", "n_steps", "visits", "transit_share", "settled_in", "settled_at", "period", "absorbed_at", "distinct_texts", "returns"].map((title) => ({ title }));
    const rows = (this.shown).map((run) => [
      runs.ids[run],
      runs.networks[runs.network[run]],
      runs.prompts[runs.prompt[run]],
      runs.seeds[run],
      runs.n_steps[run],
      runs.n_visits[run],
      runs.transit_steps[run] / runs.n_steps[run],
      none(runs.settled_in[run]),
      none(runs.settled_at[run]),
      none(runs.period[run]),
      none(runs.absorbed_at[run]),
      runs.distinct_texts[run],
      runs.returns[run],
    ]);
    return asTsv(heads, rows);
  }
}

/** A pixel as canvases keep it. @param {number[]} rgb */
function asWord(rgb) {
  return (255 << 24) | (rgb[2] << 16) | (rgb[1] << 8) | rgb[0];
}
