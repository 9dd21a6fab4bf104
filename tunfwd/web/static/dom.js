// Makes elements and keeps them up to date. Whatever a peer has said becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// A name that somebody chose: in a direction of its own, so that it cannot reorder what stands beside it.
export const named = (text) => h("bdi", {}, text);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// Have `parent` show `items` in order, and nothing else: what is there already stays the same element, with focus and
// all. `create(item)` returns {node, update(item)}.
export function keyed(parent, items, keyOf, create) {
  const before = parent.entries ?? new Map();
  const after = new Map();
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    if (after.has(key)) continue;
    const entry = before.get(key) ?? create(item);
    after.set(key, entry);
    before.delete(key);
    entry.update?.(item);
    if (entry.node === place) place = place.nextElementSibling;
    else parent.insertBefore(entry.node, place);
  }
  for (const gone of before.values()) {
    keepFocusNear(gone.node);
    gone.node.remove();
  }
  parent.entries = after;
}

// Whoever goes by keyboard is not thrown back to the top of the page where what they acted on goes away.
function keepFocusNear(node) {
  if (!node.contains(document.activeElement)) return;
  const next = node.nextElementSibling ?? node.previousElementSibling;
  (next?.querySelector("button, a, input") ?? byId("content")).focus();
}
