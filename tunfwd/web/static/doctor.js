// What `tunfwd doctor` finds, asked for when the view is opened; and who this machine is.

import { doctor, Failure } from "./actions.js";
import { byId, h, keyed, named, setText } from "./dom.js";
import { count } from "./format.js";
import { state } from "./state.js";

const MARKS = { ok: "✓", warning: "!", error: "✕" };
let looking = false;

function row(check) {
  const mark = h("span", { class: "mark", role: "img" });
  const name = h("strong");
  const detail = named("");
  const node = h("li", { class: "item" }, mark, h("div", { class: "words" }, h("p", { class: "what" }, name), h("p", { class: "muted" }, detail)));
  return {
    node,
    update(newer) {
      node.dataset.state = newer.level;
      setText(mark, MARKS[newer.level]);
      mark.setAttribute("aria-label", newer.level);
      setText(name, newer.name);
      setText(detail, newer.detail);
    },
  };
}

async function look() {
  if (looking) return;
  looking = true;
  setText(byId("doctor-summary"), "Looking …");
  try {
    const checks = await doctor();
    keyed(byId("checks"), checks.map((check, number) => ({ ...check, number })), (one) => `${one.name} ${one.number}`, row);
    const bad = checks.filter((one) => one.level === "error").length;
    const doubtful = checks.filter((one) => one.level === "warning").length;
    const found = [bad && count(bad, "error"), doubtful && count(doubtful, "warning")].filter(Boolean).join(", ");
    setText(byId("doctor-summary"), found || "All is well.");
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    setText(byId("doctor-summary"), failure.message);
  } finally {
    looking = false;
  }
}

export function update() {
  const { me } = state;
  if (!me) return;
  const list = [
    ["Nickname", me.nickname],
    ["Virtual address", me.virtual_address],
    ["IPv6", me.virtual_address6],
    ["Interface", me.interface || "none"],
    ["DNS", me.dns?.join(", ")],
    ["Public key", me.public_key],
    ["tunfwd", me.version],
    ["libtoxcore", me.toxcore],
  ].filter(([, value]) => value);
  const said = JSON.stringify(list);
  if (byId("facts").dataset.said === said) return;
  byId("facts").dataset.said = said;
  byId("facts").replaceChildren(...list.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, named(value)))));
}

export const open = look;

export function start() {
  byId("look").addEventListener("click", look);
}
