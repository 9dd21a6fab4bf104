// What I reach at contacts, what they reach here, and the forms that add to either.

import { ask, attempt, call, copy } from "./actions.js";
import { handleOf } from "./contacts.js";
import { byId, h, keyed, named, setText } from "./dom.js";
import { count, isTheirs, portList, size, span, together } from "./format.js";
import { state } from "./state.js";

function stateOf(entry) {
  if (entry.interrupted_seconds != null) return `interrupted ${span(entry.interrupted_seconds)}, kept ${span(entry.kept_seconds ?? 0)} more`;
  if (entry.silent_seconds) return `${entry.state}, silent ${span(entry.silent_seconds)}`;
  if (entry.paused) return `${entry.state}, paused`;
  return entry.trouble ? `${entry.state}, ${entry.trouble}` : entry.state;
}

const statesOf = (entries) => [...new Set(entries.map(stateOf))].join("; ");
const sum = (entries, key) => entries.reduce((total, entry) => total + (entry[key] ?? 0), 0);

async function endAll(method, all) {
  for (const entry of all) await call(method, { id: entry.id, contact: entry.contact });
  return true;
}

function line(withButtons) {
  const what = h("p", { class: "what" });
  const about = h("p", { class: "muted" });
  const address = h("code");
  const place = h("p", { class: "place", hidden: true }, address, " ", h("button", { class: "small", type: "button", onclick: () => copy(address.textContent) }, "Copy"));
  const node = h("li", { class: "item" }, h("div", { class: "words" }, what, about), place, withButtons);
  return { node, what, about, address, place };
}

function headline(group, before) {
  const { first, ports } = group;
  const room = /^(?:group|conference):([^/]+)$/.exec(first.contact);
  const whom = room ? ["everybody in ", named(room[1])] : [named(first.contact)];
  return [...(first.name ? [named(first.name), " "] : []), h("strong", {}, ports), ` ${before} `, ...whom];
}

function setOnce(node, key, make) {
  if (node.dataset.said === key) return;
  node.dataset.said = key;
  node.replaceChildren(...make());
}

function reachedRow(first) {
  let group = first;
  const leave = h("button", { type: "button", onclick: () => attempt(leave, () => endAll("leave", group.all), "Left; it can be accepted again.") }, "Leave");
  const { node, what, about, address, place } = line(h("p", { class: "buttons" }, leave));
  return {
    node,
    update(newer) {
      group = newer;
      const { all, ports } = group;
      setOnce(what, `${group.key} ${ports}`, () => headline(group, "of"));
      const used = `${count(sum(all, "connections"), "connection")} · ↓ ${size(sum(all, "rx_bytes"))} · ↑ ${size(sum(all, "tx_bytes"))}`;
      setText(about, `${statesOf(all)} · ${used}`);
      const host = all[0].dns || all[0].address || all[0].address6;
      place.hidden = !host || all[0].state === "pending";
      setText(address, all.length === 1 && all[0].port ? hostPort(host, all[0].port) : host ?? "");
      node.dataset.state = all[0].state;
    },
  };
}

const hostPort = (host, port) => (host?.includes(":") ? `[${host}]:${port}` : `${host}:${port}`);

function offeredRow(first) {
  let group = first;
  const pause = h("button", { type: "button", onclick: () => attempt(pause, () => endAll(isPaused() ? "offer.resume" : "offer.pause", group.all)) });
  const end = h("button", { type: "button", class: "danger", onclick: () => attempt(end, async () => {
    const text = "Every connection over it ends.";
    const sure = await ask({ title: `Withdraw ${group.first.name || group.ports}?`, text, verb: "Withdraw", danger: true });
    return sure && endAll("kill", group.all);
  }) }, "Withdraw");
  const isPaused = () => group.all.every((entry) => entry.paused);
  const { node, what, about } = line(h("p", { class: "buttons" }, pause, end));
  return {
    node,
    update(newer) {
      group = newer;
      const { all, ports } = group;
      const asked = group.first.direction === "connection";
      setOnce(what, `${group.key} ${ports}`, () => headline(group, asked ? "asked for by" : "to"));
      const inUse = state.ports.ports.filter((port) => all.some((entry) => entry.id === port.id && entry.contact === port.contact));
      const target = [...new Set(all.map((entry) => entry.target).filter(Boolean))];
      const used = inUse.length ? `${count(sum(inUse, "connections"), "connection")} · ↓ ${size(sum(inUse, "rx_bytes"))} · ↑ ${size(sum(inUse, "tx_bytes"))}` : "";
      setText(about, [statesOf(all), target.length === 1 ? `service at ${target[0]}` : "", used].filter(Boolean).join(" · "));
      setText(pause, isPaused() ? "Resume" : "Pause");
      node.dataset.state = isPaused() ? "paused" : all[0].state;
    },
  };
}

function refusedRow(first) {
  let group = first;
  const again = h("button", { type: "button", onclick: () => attempt(again, async () => {
    for (const entry of group.all) await call("offer.accept", { offer: entry.id, contact: entry.contact });
  }, "Accepted.") }, "Accept after all");
  const { node, what, about } = line(h("p", { class: "buttons" }, again));
  return {
    node,
    update(newer) {
      group = newer;
      setOnce(what, `${group.key} ${group.ports}`, () => headline(group, "of"));
      setText(about, group.first.left ? "left" : "declined");
    },
  };
}

// --- to whom

function choices(withGroups) {
  const contacts = state.status?.contacts ?? [];
  const label = (one) => (one.kind === "friend" ? one.name || one.public_key.slice(0, 8) : `${one.name} in ${one.via.replace(/^.*?:/, "")}`);
  const found = contacts.map((one) => [handleOf(one), label(one)]).sort((a, b) => a[1].localeCompare(b[1]));
  if (!withGroups) return found;
  const rooms = (state.status?.groups ?? []).filter((one) => one.state !== "invited");
  return [...found, ...rooms.map((one) => [`${one.kind}:${one.name}`, `everybody in ${one.name}`])];
}

function fillSelect(select, options) {
  const said = JSON.stringify(options);
  if (select.dataset.said !== said) {
    const chosen = select.value;
    select.dataset.said = said;
    select.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
    if (options.some(([value]) => value === chosen)) select.value = chosen;
  }
  if (select.dataset.wanted) {
    select.value = select.dataset.wanted;
    delete select.dataset.wanted;
  }
  const none = options.length === 0;
  for (const field of select.form.elements) field.disabled = none;
}

export function update() {
  const { offers, refused = [] } = state.offers;
  const decided = (entry) => !(entry.origin === "remote" && entry.state === "pending");
  const reached = together([...state.ports.ports.filter(isTheirs), ...offers.filter((one) => isTheirs(one) && one.origin === "local" && one.state === "pending")]);
  const offered = together(offers.filter((one) => !isTheirs(one) && decided(one)));
  keyed(byId("reached"), reached, (one) => one.key, reachedRow);
  keyed(byId("offered"), offered, (one) => one.key, offeredRow);
  keyed(byId("refused-list"), together(refused), (one) => one.key, refusedRow);
  byId("reached-empty").hidden = reached.length > 0;
  byId("offered-empty").hidden = offered.length > 0;
  byId("refused").hidden = refused.length === 0;
  fillSelect(byId("offer-form").elements.to, choices(true));
  fillSelect(byId("request-form").elements.contact, choices(false));
}

export function start() {
  const offerForm = byId("offer-form");
  offerForm.addEventListener("submit", (event) => {
    event.preventDefault();
    const { to, ports, name, target } = offerForm.elements;
    attempt(event.submitter, async () => {
      await call("offer.add", { to: [to.value], ports: portList(ports.value), name: name.value.trim(), target: target.value.trim() });
      for (const field of [ports, name, target]) field.value = "";
      return true;
    }, "Offered.");
  });
  const requestForm = byId("request-form");
  requestForm.addEventListener("submit", (event) => {
    event.preventDefault();
    const { contact, ports, name } = requestForm.elements;
    attempt(event.submitter, async () => {
      await call("request", { contact: contact.value, ports: portList(ports.value), name: name.value.trim() });
      for (const field of [ports, name]) field.value = "";
      return true;
    }, "Asked; they decide.");
  });
}
