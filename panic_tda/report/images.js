/** The images of clusters. */
import { el } from "./dom.js";

/** @typedef {import("./container.js").Page} PageWithImages */

/** Images of clusters by label, made once. @type {Map<number, string>} */
const images = new Map();

/**
 * The image of a cluster's medoid, or nothing.
 * @param {PageWithImages} page @param {number} label
 */
export function imageOf(page, label) {
  const { labels, ends, data } = page.thumbnails;
  const at = Array.prototype.indexOf.call(labels, label);
  if (at < 0) return null;
  if (!images.has(label)) {
    let characters = "";
    for (const byte of data.subarray(at ? ends[at - 1] : 0, ends[at])) characters += String.fromCharCode(byte);
    images.set(label, `data:image/webp;base64,${btoa(characters)}`);
  }
  return el("img", { src: images.get(label), alt: "", class: "thumbnail" });
}
