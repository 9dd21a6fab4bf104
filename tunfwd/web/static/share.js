// Tickets made and taken, friends by Tox ID, and our own.

import { ask, attempt, call, copy, Failure, qr } from "./actions.js";
import { byId, h, keyed, named, s, setText } from "./dom.js";
import { count, portList, ports, span } from "./format.js";
import { state } from "./state.js";

const LOOK = 1000; // ms between looks at how far joining has come
const STAGES = [["asked", "Asked"], ["connected", "Connected"], ["offered", "Offered"], ["reachable", "Reachable"]];
const QUIET = 4; // modules around a code

// A QR code as one path; dark on light in any scheme, for cameras.
async function code(text, label) {
  const rows = await qr(text);
  const side = rows.length + 2 * QUIET;
  let path = "";
  rows.forEach((row, y) => {
    for (const run of row.matchAll(/1+/g)) path += `M${run.index + QUIET} ${y + QUIET}h${run[0].length}v1h-${run[0].length}z`;
  });
  return s("svg", { class: "qr", role: "img", "aria-label": label, viewBox: `0 0 ${side} ${side}`, "shape-rendering": "crispEdges" },
    s("rect", { width: side, height: side }), s("path", { d: path }));
}

export async function showTicket(invite) {
  const panel = byId("ticket");
  const command = `tunfwd join ${invite.ticket}`;
  const whom = invite.uses === null ? "anybody" : invite.uses === 1 ? "one person" : `${invite.uses} people`;
  const what = invite.group === null ? `${ports(invite.offers)}${invite.name ? ` (${invite.name})` : ""}` : `the group ${invite.group}`;
  const left = invite.expires === null ? "for as long as the group is public" : `for ${span(Math.max(0, invite.expires - Date.now() / 1000 + 30))}`;
  const troubles = invite.offers.filter((one) => one.trouble).map((one) => `At ${one.target}: ${one.trouble}.`);
  panel.replaceChildren(
    h("div", {},
      h("h2", { id: "ticket-title" }, "Ticket to ", named(what)),
      h("p", { class: "muted" }, `For ${whom}, valid ${left}. It is shown only now. Pass it on in private; on the other machine:`),
      h("code", { class: "key" }, command),
      h("p", { class: "buttons" },
        h("button", { class: "primary", type: "button", onclick: () => copy(invite.ticket) }, "Copy ticket"),
        h("button", { type: "button", onclick: () => copy(command) }, "Copy command"),
        h("button", { type: "button", onclick: () => { panel.hidden = true; } }, "Close")),
      ...troubles.map((one) => h("p", { class: "note" }, one))),
    await code(invite.ticket, "The ticket as a QR code"));
  panel.hidden = false;
  panel.focus();
  panel.scrollIntoView({ block: "nearest" });
}

function share(form, button) {
  const { ports: wanted, name, target, uses, seconds } = form.elements;
  return attempt(button, async () => {
    const made = await call("share", {
      ports: portList(wanted.value), name: name.value.trim(), target: target.value.trim(), uses: Number(uses.value), seconds: Number(seconds.value),
    });
    await showTicket(made.invite);
  });
}

// --- joining

let joining = 0; // the number of the latest try

function showStages(result) {
  const reached = STAGES.findIndex(([stage]) => stage === result.stage);
  byId("join-stages").hidden = false;
  keyed(byId("join-stages"), STAGES, ([stage]) => stage, ([, text]) => ({ node: h("li", {}, text) }));
  [...byId("join-stages").children].forEach((node, number) => {
    node.dataset.state = number <= reached ? "done" : "open";
    if (number === reached) node.setAttribute("aria-current", "step");
    else node.removeAttribute("aria-current");
  });
  const where = result.mappings.map((one) => `${one.name || `${one.port}/${one.protocol}`} is at ${one.dns || one.address || one.address6}:${one.port}`);
  const done = result.group ? `You are in ${result.group.name}.` : where.join("; ");
  setText(byId("join-note"), result.stage === "reachable" ? done : result.missing ?? "");
}

function join(form, button) {
  const number = ++joining;
  const ticket = form.elements.ticket.value.replace(/\s+/g, "").replace(/^tunfwdjoin/, "");
  return attempt(button, async () => {
    let result = await call("join", { ticket, name: form.elements.name.value.trim() });
    showStages(result);
    form.elements.ticket.value = form.elements.name.value = "";
    waitForJoin(number, ticket, result);
  });
}

async function waitForJoin(number, ticket, first) {
  let result = first;
  while (number === joining && result.stage !== "reachable") {
    await new Promise((resolve) => setTimeout(resolve, LOOK));
    try {
      result = await call("join.status", { ticket });
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      setText(byId("join-note"), failure.message);
      continue;
    }
    if (number === joining) showStages(result);
  }
}

// --- what is there

function inviteRow(first) {
  let invite = first;
  const what = h("p", { class: "what" });
  const about = h("p", { class: "muted" });
  const revoke = h("button", { type: "button", class: "danger", onclick: () => attempt(revoke, async () => {
    const text = "Nobody can join by it any more. Who has joined stays.";
    const sure = await ask({ title: "End the ticket?", text, verb: "End", danger: true });
    return sure && call("invite.revoke", { id: invite.id });
  }) }, "End");
  const node = h("li", { class: "item" }, h("div", { class: "words" }, what, about), h("p", { class: "buttons" }, revoke));
  return {
    node,
    update(newer) {
      invite = newer;
      const leads = invite.group === null ? ports(invite.offers) : `group ${invite.group}`;
      if (!what.hasChildNodes()) what.append(...(invite.name ? [named(invite.name), " "] : []), h("strong", {}, named(leads)));
      const left = invite.expires === null ? "" : `${span(Math.max(0, invite.expires - Date.now() / 1000))} left`;
      const who = invite.joined.map((one) => one.name || one.public_key.slice(0, 8)).join(", ");
      const used = `${invite.joined.length} of ${count(invite.uses ?? 0, "use")}`;
      setText(about, [invite.state === "open" ? left : invite.state, used, who && `joined: ${who}`].filter(Boolean).join(" · "));
      revoke.hidden = invite.state !== "open" || invite.id === null;
      node.dataset.state = invite.state;
    },
  };
}

export function update() {
  const { invites } = state.invites;
  byId("invites").hidden = invites.length === 0;
  keyed(byId("invites-list"), invites, (one) => one.id, inviteRow);
  byId("me").hidden = !state.me;
  if (state.me && byId("my-address").textContent !== state.me.address) {
    setText(byId("my-address"), state.me.address);
    byId("my-code").hidden = true;
    byId("show-address").setAttribute("aria-expanded", "false");
  }
}

export function start() {
  byId("share-form").addEventListener("submit", (event) => {
    event.preventDefault();
    share(event.target, event.submitter);
  });
  byId("join-form").addEventListener("submit", (event) => {
    event.preventDefault();
    join(event.target, event.submitter);
  });
  byId("friend-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const { address, name, message } = event.target.elements;
    attempt(event.submitter, async () => {
      await call("friend.add", { address: address.value.replace(/\s+/g, ""), name: name.value.trim(), message: message.value.trim() });
      for (const field of [address, name, message]) field.value = "";
      return true;
    }, "Asked; they decide.");
  });
  byId("copy-address").addEventListener("click", () => copy(state.me.address));
  byId("show-address").addEventListener("click", (event) => attempt(event.target, async () => {
    const place = byId("my-code");
    if (place.hidden) place.replaceChildren(await code(state.me.address, "Your Tox ID as a QR code"));
    place.hidden = !place.hidden;
    byId("show-address").setAttribute("aria-expanded", String(!place.hidden));
  }));
}
