// What goes through in all, and what has happened.

import { Chart } from "./chart.js";
import { byId, h, keyed, named } from "./dom.js";
import { dayOf, rate, timeOf } from "./format.js";
import { state } from "./state.js";

const BAD = new Set(["error", "connection_failed"]);
const ASKS = new Set(["friend_request", "offer", "request", "invitation", "warning"]);

let total;

function sums(sample) {
  let [into, out] = [0, 0];
  for (const [received, sent] of Object.values(sample.contacts)) {
    into += received;
    out += sent;
  }
  return [sample.at, into, out];
}

function row(event) {
  const level = BAD.has(event.event) ? "bad" : ASKS.has(event.event) ? "asks" : "plain";
  const time = h("time", { datetime: event.time, title: `${dayOf(event.time)} ${timeOf(event.time)}` }, timeOf(event.time));
  const kind = h("span", { class: "kind" }, event.event.replaceAll("_", " "));
  return { node: h("li", { "data-level": level }, time, kind, h("span", { class: "text" }, named(event.text))) };
}

export function update() {
  total.show(state.samples.map(sums));
  const all = byId("with-connections").checked;
  const shown = state.events.filter((one) => all || !one.event.startsWith("connection_")).reverse();
  keyed(byId("log"), shown, (one) => `${one.time} ${one.seq}`, row);
  byId("log-empty").hidden = shown.length > 0;
}

export function start() {
  total = new Chart("All contacts", [{ name: "In", className: "in" }, { name: "Out", className: "out" }], rate, 1000);
  byId("total").append(total.node);
  byId("with-connections").addEventListener("change", update);
}
