/** A pointer that drags, and two fingers that drag and zoom; one finger up or down scrolls the page (`touch-action`). */

/** @typedef {{x: number, y: number}} Place in pixels of the element */

/**
 * @param {HTMLElement} element
 * @param {object} told
 * @param {(event: PointerEvent) => void} told.hover
 * @param {(event: PointerEvent) => void} told.click
 * @param {(from: Place, to: Place, factor: number) => void} told.move   what was at one place is at the other, so much larger
 * @param {() => void} told.moved   the last one has been lifted
 */
export function listenToHands(element, { hover, click, move, moved }) {
  /** @type {Map<number, Place>} */
  const held = new Map();
  let way = 0;
  /** Where the only finger was put down; null once there was another. @type {Place | null} */
  let start = null;
  element.addEventListener("pointerdown", (event) => {
    if (!held.size) way = 0;
    start = held.size ? null : placeOf(event);
    held.set(event.pointerId, placeOf(event));
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return hover(event);
    const now = placeOf(event);
    const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
    if (other) move(middle(before, other), middle(now, other), distance(now, other) / Math.max(1, distance(before, other)));
    else move(before, now, 1);
    way += distance(before, now);
    held.set(event.pointerId, now);
  });
  const release = (/** @type {PointerEvent} */ event) => {
    const last = held.get(event.pointerId);
    held.delete(event.pointerId);
    if (!last || held.size) return;
    // The browser scrolls the page with this finger from here on: take back the few pixels that it moved the map.
    if (event.type === "pointercancel" && start) move(last, start, 1);
    else if (way > 4) moved();
    else if (event.type === "pointerup") click(event);
  };
  element.addEventListener("pointerup", release);
  element.addEventListener("pointercancel", release);
}

/** @param {PointerEvent} event @returns {Place} */
function placeOf(event) {
  return { x: event.offsetX, y: event.offsetY };
}

/** @param {Place} a @param {Place} b @returns {Place} */
function middle(a, b) {
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
}

/** @param {Place} a @param {Place} b */
function distance(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}
