/** Elements, numbers as text, tables that can be copied. Texts only ever become text nodes. */

/**
 * Make an element; what is null among the children is left out.
 * @param {string} tag
 * @param {{[name: string]: any}} [properties]
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name in made && typeof value !== "string") Object.assign(made, { [name]: value });
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * Make an element of a drawing.
 * @param {string} tag
 * @param {{[name: string]: string | number}} [attributes]
 * @param {...(Node | string)} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** @param {string} id @returns {any} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** @param {number | null | undefined} value @returns {string} */
export function whole(value) {
  return value === null || value === undefined ? "–" : WHOLE.format(value);
}

/**
 * @param {number | null | undefined} value
 * @param {number} [digits]
 * @returns {string}
 */
export function decimal(value, digits = 2) {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits);
}

/** @param {number | null | undefined} share @param {number} [digits] @returns {string} */
export function percent(share, digits = 1) {
  return share === null || share === undefined || Number.isNaN(share) ? "–" : `${(100 * share).toFixed(digits)} %`;
}

/** A number as short as it is true. @param {number | null | undefined} value @returns {string} */
export function short(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return WHOLE.format(value);
  return String(Number(value.toPrecision(4)));
}

/**
 * One line of a text: no line breaks, no control characters, nothing that turns the reading direction.
 * @param {string} text
 * @param {number} [characters]
 */
export function oneLine(text, characters = Infinity) {
  const plain = text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\s]+/gu, (run) => (/[\u200d]/.test(run) ? run : " ")).trim();
  if (plain.length <= characters) return plain;
  const cut = [...plain.slice(0, characters - 1)];
  if (/^[\ud800-\udbff]$/.test(cut[cut.length - 1] ?? "")) cut.pop();
  return `${cut.join("")}…`;
}

/** @param {number} number @param {string} thing @param {string} [things] */
export function counted(number, thing, things = `${thing}s`) {
  return `${whole(number)} ${number === 1 ? thing : things}`;
}

/** @param {string[] | string | null} value @returns {string} */
export function named(value) {
  return value === null ? "gone" : Array.isArray(value) ? value.map((one) => oneLine(one)).join(" → ") : oneLine(value);
}

/**
 * What a spreadsheet takes for a formula, or for a cell in quotes that may hold one; also as East Asian
 * spreadsheets write the signs.
 */
const TAKEN_FOR_MORE = /^'*[=+\-@"＝＋－＠]/;

/**
 * A text as a cell for a spreadsheet, which takes what follows an apostrophe as text and does not show it. As
 * in the exports, a text that looks so already gets another one: who takes one away has the text.
 * @param {string} text
 */
function asCell(text) {
  return TAKEN_FOR_MORE.test(text) ? `'${text}` : text;
}

/**
 * @typedef {{title: string, number?: boolean, show?: (value: any) => string}} Head
 *
 * Rows as tab-separated values: what stands between tabs has no tab or line break of its own, numbers are
 * numbers, and no text is a formula.
 * @param {Head[]} heads
 * @param {any[][]} rows
 */
export function asTsv(heads, rows) {
  const lines = [heads.map((head) => head.title), ...rows];
  return lines
    .map((line) => line.map((value) => (value === null || value === undefined ? "" : typeof value === "string" || typeof value === "object" ? asCell(named(value)) : String(value))).join("\t"))
    .join("\n");
}

/**
 * A button that copies rows. Where the browser gives no clipboard, the old command does it.
 * @param {() => string} text
 */
export function copyButton(text) {
  const button = el("button", { type: "button", class: "quiet", data: { role: "copy" } }, "Copy as TSV");
  button.addEventListener("click", async () => {
    const copied = text();
    try {
      await navigator.clipboard.writeText(copied);
    } catch {
      const area = el("textarea", { class: "offstage" });
      area.value = copied;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy as TSV"), 1200);
  });
  return button;
}

/**
 * @param {Head[]} heads
 * @param {any[][]} rows
 * @param {(row: number) => string} [mark] class of a row
 */
export function plainTable(heads, rows, mark = () => "") {
  const cells = (/** @type {any[]} */ row) =>
    row.map((value, column) => {
      const { number, show } = heads[column];
      return el("td", { class: number ? "number" : "", dir: number ? "ltr" : "auto" }, show ? show(value) : named(value === undefined ? null : value === null ? "–" : typeof value === "number" ? short(value) : value));
    });
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col", class: head.number ? "number" : "" }, head.title)))),
    el("tbody", {}, ...rows.map((row, number) => el("tr", { class: mark(number) }, ...cells(row)))),
  );
}

/**
 * The numbers of a figure, folded away under it.
 * @param {Head[]} heads
 * @param {() => any[][]} rows
 */
export function numbersOf(heads, rows) {
  const folded = el("details", { class: "numbers" }, el("summary", {}, "Numbers"));
  folded.addEventListener("toggle", () => {
    if (!folded.open || folded.querySelector("table")) return;
    folded.append(copyButton(() => asTsv(heads, rows())), el("div", { class: "scroll" }, plainTable(heads, rows())));
  });
  return folded;
}

/**
 * @param {string} title
 * @param {string} caption
 * @param {...(Node | null)} parts
 */
export function figure(title, caption, ...parts) {
  return el("figure", {}, el("h3", {}, title), caption ? el("p", { class: "caption" }, caption) : null, ...parts);
}

/** The one tooltip. @type {any} */
let tip = null;

/**
 * Show lines beside the pointer; the first stands out.
 * @param {{clientX: number, clientY: number}} at
 * @param {(string | Node | null)[]} lines
 */
export function showTip(at, lines) {
  tip ??= document.body.appendChild(el("div", { class: "tip", role: "tooltip" }));
  tip.replaceChildren(...lines.filter((line) => line !== null).map((line) => (typeof line === "string" ? el("div", { dir: "auto" }, line) : line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = at.clientX + 14 + width > innerWidth ? at.clientX - 14 - width : at.clientX + 14;
  const y = at.clientY + 14 + height > innerHeight ? at.clientY - 14 - height : at.clientY + 14;
  tip.style.transform = `translate(${Math.max(4, x)}px, ${Math.max(4, y)}px)`;
}

export function hideTip() {
  if (tip) tip.hidden = true;
}

/**
 * A choice among some values.
 * @param {string} label
 * @param {[string, string][]} choices value and text
 * @param {string} value
 * @param {(value: string) => void} chosen
 */
export function choice(label, choices, value, chosen) {
  const select = el("select", { onchange: () => chosen(select.value) }, ...choices.map(([one, text]) => el("option", { value: one }, text)));
  select.value = value;
  return { element: el("label", { class: "choice" }, el("span", {}, label), select), select };
}
