// Contacts: how each is reached and what goes through; one that is opened shows how that went.

import { ask, attempt, call } from "./actions.js";
import { Chart, Spark } from "./chart.js";
import { byId, h, keyed, named, setAttribute, setText } from "./dom.js";
import { count, milliseconds, rate, size, span, together } from "./format.js";
import * as groups from "./groups.js";
import { state } from "./state.js";

const SEARCHED = 8; // contacts from which on there is a search

export const handleOf = (contact) => (contact.kind === "friend" ? contact.public_key : `${contact.via}/${contact.name}`);

// [ms, in, out, round trip] of a contact, of the latest samples.
function figures(contact, most) {
  return state.samples.slice(-most).map((sample) => [sample.at, ...(sample.contacts[contact.number] ?? [null, null, null])]);
}

function pathOf(contact) {
  if (contact.silent_seconds) return { state: "silent", text: `silent ${span(contact.silent_seconds)}` };
  if (contact.link === "direct") return { state: "direct", text: "direct" };
  if (contact.link === "relay") return { state: "relay", text: "by relay" };
  const since = contact.offline_seconds;
  return { state: "offline", text: since === null ? "offline" : `offline ${span(since)}` };
}

function rename(button, contact) {
  return attempt(button, async () => {
    const to = await ask({ title: "Rename", verb: "Rename", field: { label: "Name", value: contact.name } });
    return to && call("friend.rename", { name: contact.public_key, to });
  });
}

function remove(button, contact) {
  return attempt(button, async () => {
    const text = "The friendship ends, and with it all that was offered and accepted between you.";
    const sure = await ask({ title: `Remove ${contact.name}?`, text, verb: "Remove", danger: true });
    return sure && call("friend.remove", { name: contact.public_key });
  });
}

function ping(button, contact) {
  return attempt(button, () => call("ping", { name: handleOf(contact) }), (result) =>
    `${contact.name} answers in ${milliseconds(result.seconds)}, ${result.path === "direct" ? "directly" : "by a relay"}.`);
}

const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

// What an opened contact shows.
function details(first, id) {
  let contact = first;
  const rates = new Chart("Rate", [{ name: "In", className: "in" }, { name: "Out", className: "out" }], rate, 1000);
  const trips = new Chart("Round trip", [{ name: "Now", className: "rtt" }], milliseconds, 0.01);
  const facts = h("dl", { class: "facts" });
  const button = (text, work, attributes = {}) => {
    const node = h("button", { type: "button", ...attributes, onclick: () => work(node, contact) }, text);
    return node;
  };
  const buttons = h("p", { class: "buttons" }, button("Ping", ping),
    h("a", { class: "button", href: "#services", onclick: () => { byId("offer-form").elements.to.dataset.wanted = handleOf(contact); } }, "Offer a port"));
  if (contact.kind === "friend") buttons.append(button("Rename", rename), button("Remove", remove, { class: "danger" }));
  let written = "";
  return {
    node: h("div", { class: "details", id }, h("div", { class: "pair" }, rates.node, trips.node), facts, buttons),
    update(newer) {
      contact = newer;
      const points = figures(contact, 300);
      rates.show(points.map(([at, into, out]) => [at, into, out]));
      trips.show(points.map(([at, , , rtt]) => [at, rtt]));
      const theirs = state.ports.ports.filter((one) => one.contact === contact.name || one.contact === handleOf(contact));
      const list = [
        ["Address", contact.address ?? contact.address6],
        ["Name in DNS", contact.dns],
        ["Ports", together(theirs).map((one) => (one.first.name ? `${one.first.name} (${one.ports})` : one.ports)).join(", ")],
        ["Connections", String(contact.connections)],
        ["Received", size(contact.rx_bytes)],
        ["Sent", size(contact.tx_bytes)],
        ["Path", contact.path_seconds == null ? pathOf(contact).text : `${pathOf(contact).text}, for ${span(contact.path_seconds)}`],
        ["Loss", contact.loss == null ? null : `${(contact.loss * 100).toFixed(1)} %`],
        ["Window", contact.window == null ? null : size(contact.window)],
        ["Kept", contact.kept_seconds == null ? null : `connections wait ${span(contact.kept_seconds)} more`],
        ["Note", contact.reason],
        ["Public key", contact.public_key],
      ].filter(([, value]) => value);
      if (JSON.stringify(list) === written) return;
      written = JSON.stringify(list);
      facts.replaceChildren(...list.map(([name, value]) => fact(name, named(value))));
    },
  };
}

function contactRow(first) {
  const id = `contact-${first.number}`;
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  const name = named("");
  const via = h("span", { class: "muted via" });
  const [path, rtt, into, out] = ["path", "rtt", "in", "out"].map((className) => h("span", { class: className }));
  const spark = new Spark();
  let opened = null;
  const row = h("button", { class: "row", type: "button", "aria-expanded": "false", onclick: toggle },
    h("span", { class: "who" }, dot, h("span", { class: "called" }, name, via)), path, rtt, into, out, spark.node);
  const node = h("li", {}, row);
  let contact = first;

  function toggle() {
    if (opened) {
      opened.node.remove();
      opened = null;
    } else {
      opened = details(contact, id);
      node.append(opened.node);
      opened.update(contact);
    }
    row.setAttribute("aria-expanded", String(opened !== null));
    setAttribute(row, "aria-controls", opened ? id : null);
  }

  return {
    node,
    update(newer) {
      contact = newer;
      const points = figures(contact, 60);
      const last = points.at(-1) ?? [0, null, null];
      const way = pathOf(contact);
      node.dataset.state = way.state;
      setText(name, contact.name || contact.public_key.slice(0, 8));
      setText(via, contact.kind === "friend" ? "" : `in ${contact.via.replace(/^.*?:/, "")}`);
      setText(path, way.text);
      setText(rtt, contact.rtt == null ? "" : milliseconds(contact.rtt));
      setText(into, last[1] ? `↓ ${rate(last[1])}` : "");
      setText(out, last[2] ? `↑ ${rate(last[2])}` : "");
      const through = points.filter(([, one]) => one !== null).map(([at, one, two]) => [at, one + two]);
      spark.show(through);
      opened?.update(contact);
    },
  };
}

const order = (a, b) =>
  (a.link === "offline") - (b.link === "offline") || a.name.localeCompare(b.name) || a.number - b.number;

export function update() {
  if (!state.status) return;
  const contacts = state.status.contacts.toSorted(order);
  const online = contacts.filter((one) => one.link !== "offline").length;
  const search = byId("contacts-search");
  search.hidden = contacts.length < SEARCHED;
  const wanted = search.hidden ? "" : byId("contacts-filter").value.trim().toLocaleLowerCase();
  const fits = (one) => [one.name, one.via, one.address ?? "", one.public_key].some((text) => text.toLocaleLowerCase().includes(wanted));
  const shown = wanted ? contacts.filter(fits) : contacts;
  const found = wanted ? `; ${shown.length} found` : "";
  setText(byId("contacts-summary"), contacts.length ? `${online} of ${count(contacts.length, "contact")} online${found}` : "");
  byId("contacts-empty").hidden = contacts.length > 0;
  byId("contacts-list").parentElement.classList.toggle("none", contacts.length === 0);
  keyed(byId("contacts-list"), shown, (one) => one.number, contactRow);
  groups.update();
}

export function start() {
  byId("contacts-filter").addEventListener("input", update);
  groups.start();
}
