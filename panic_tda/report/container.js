/**
 * What the page carries: read once, when it opens.
 *
 * @typedef {ArrayLike<number> & {length: number, [index: number]: number, subarray?: any}} Numbers
 * @typedef {{[name: string]: any}} Json
 *
 * @typedef {object} MapData
 * @property {string} method
 * @property {number} n
 * @property {number} n_all
 * @property {Numbers} x
 * @property {Numbers} y
 * @property {Numbers} labels
 * @property {Numbers} probabilities   in ten-thousandths
 * @property {Numbers} runs
 * @property {Numbers} steps
 * @property {Numbers} texts
 *
 * @typedef {object} Clusters
 * @property {Numbers} sizes
 * @property {number[]} persistence
 * @property {Numbers} runs
 * @property {Numbers} prompts
 * @property {number[]} largest_run_shares
 * @property {string[]} words          that set each cluster apart, with commas
 * @property {Numbers} entered
 * @property {(number | null)[]} median_dwells
 * @property {(number | null)[]} copies
 * @property {Numbers} texts
 * @property {Numbers} points
 * @property {Numbers} medoid_runs
 * @property {[number, number][][]} near
 * @property {[number, number][][]} far
 *
 * @typedef {object} Runs
 * @property {string[]} ids
 * @property {string[]} names          beginnings of the ids that are unique
 * @property {(string[] | null)[]} networks
 * @property {(string | null)[]} prompts
 * @property {Numbers} network
 * @property {Numbers} prompt
 * @property {(number | null)[]} seeds
 * @property {Numbers} offsets
 * @property {Int32Array} steps
 * @property {Numbers} step_differences
 * @property {Numbers} states
 * @property {Numbers} flags
 * @property {Numbers} similar
 * @property {Numbers} period
 * @property {Numbers} absorbed_at
 * @property {Numbers} settled_in
 * @property {Numbers} settled_at
 * @property {Numbers} n_steps
 * @property {Numbers} transit_steps
 * @property {Numbers} distinct_texts
 * @property {Numbers} returns
 * @property {Numbers} n_visits
 *
 * @typedef {object} Tree
 * @property {Numbers} parents
 * @property {Numbers} births
 * @property {Numbers} deaths
 * @property {Numbers} sizes
 * @property {Numbers} labels
 * @property {number} n_all
 *
 * @typedef {object} Page
 * @property {Json} head
 * @property {string[]} notes
 * @property {string[]} texts
 * @property {MapData} map
 * @property {Clusters} clusters
 * @property {{labels: Numbers, ends: Numbers, data: Uint8Array, missing: string | null}} thumbnails
 * @property {Runs} runs
 * @property {Json} groups
 * @property {Json} dynamics
 * @property {Tree | null} tree
 * @property {Json | null} density
 * @property {Json | null} sweep
 * @property {string} command
 */

const ARRAYS = {
  u1: Uint8Array,
  u2: Uint16Array,
  u4: Uint32Array,
  i1: Int8Array,
  i2: Int16Array,
  i4: Int32Array,
  f4: Float32Array,
  f8: Float64Array,
};

/**
 * Undo what the page's maker did: base64, gzip, and the arrays behind the JSON text.
 * @param {string} text
 * @returns {Promise<Page>}
 */
export async function readPage(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const page = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return withSteps(withArrays(page, buffer, 4 + length));
}

/** @param {string} text */
function bytesOf(text) {
  const characters = atob(text.trim());
  const bytes = new Uint8Array(characters.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = characters.charCodeAt(at);
  return bytes;
}

/**
 * @param {any} value
 * @param {ArrayBuffer} buffer
 * @param {number} first
 * @returns {any}
 */
function withArrays(value, buffer, first) {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) {
    for (let at = 0; at < value.length; at++) value[at] = withArrays(value[at], buffer, first);
    return value;
  }
  if (Object.hasOwn(value, "$")) {
    const [kind, offset, count] = value.$;
    return new ARRAYS[/** @type {keyof typeof ARRAYS} */ (kind)](buffer, first + offset, count);
  }
  for (const name of Object.keys(value)) value[name] = withArrays(value[name], buffer, first);
  return value;
}

/**
 * Steps are kept as differences, which compress to nearly nothing.
 * @param {Page} page
 */
function withSteps(page) {
  const differences = page.runs.step_differences;
  const steps = new Int32Array(differences.length);
  for (let at = 0, step = 0; at < steps.length; at++) steps[at] = step += differences[at];
  page.runs.steps = steps;
  return page;
}
