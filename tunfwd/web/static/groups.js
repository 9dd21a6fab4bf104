// Groups and conferences: one that is opened shows who is in it, what each of them offers, and who is kept out.

import { ask, attempt, call, peek } from "./actions.js";
import { byId, h, keyed, named, setAttribute, setText } from "./dom.js";
import { count, isTheirs, together } from "./format.js";
import { state } from "./state.js";

const LOOK = 2000; // ms between two looks at who is in an opened one
const LINKS = { direct: "direct", relay: "by relay", offline: "offline" };

// What a contact offers, in words: "web 8080/tcp, running".
function offersOf(handle) {
  const { offers, refused = [] } = state.offers;
  const all = [
    ...state.ports.ports,
    ...offers.filter((one) => one.state === "pending"),
    ...refused.map((one) => ({ ...one, state: one.left ? "left" : "declined" })),
  ].filter((one) => one.contact === handle && isTheirs(one));
  const words = ({ first, ports }) => `${[first.name, ports].filter(Boolean).join(" ")}, ${first.state}`;
  return together(all).map(words).join("; ");
}

// One line of those that stand in an opened group.
function line(name, buttons = null) {
  const called = named(name);
  const about = h("p", { class: "muted" });
  const offered = h("p", { class: "offered", hidden: true });
  const what = h("p", { class: "what" }, h("span", { class: "dot", "aria-hidden": "true" }), called);
  const node = h("li", { class: "item" }, h("div", { class: "words" }, what, about, offered), buttons);
  return { node, called, about, offered };
}

function memberRow(first, room) {
  let member = first;
  const act = (text, method, question, done) => {
    const button = h("button", { type: "button", class: "danger", onclick: () => attempt(button, async () => {
      const sure = await ask({ title: `${text} ${member.name}?`, text: question, verb: text, danger: true });
      return sure && call(method, { group: room.of().id, member: member.name });
    }, (said) => (said ? `${done} ${member.name}.` : "Left as it is.")) }, text);
    return button;
  };
  const kick = act("Kick", "group.kick", "They may come back; to keep them out for good, ban them.", "Kicked");
  const ban = act("Ban", "group.ban", "What was agreed between you ends, and this machine ignores them for good, by their key.", "Banned");
  const buttons = h("p", { class: "buttons" }, kick, ban);
  const { node, called, about, offered } = line(member.name, buttons);
  return {
    node,
    update(newer) {
      member = newer;
      node.dataset.state = member.link;
      setText(called, member.name);
      setAttribute(kick, "aria-label", `Kick ${member.name}`);
      setAttribute(ban, "aria-label", `Ban ${member.name}`);
      const link = member.reachable ? LINKS[member.link] : "not reachable";
      setText(about, [link, member.address ?? member.address6, member.advice].filter(Boolean).join(" · "));
      const offers = offersOf(`${room.of().kind}:${room.of().name}/${member.name}`);
      setText(offered, offers && `Offers ${offers}`);
      offered.hidden = !offers;
      kick.hidden = !room.moderates() || member.link === "offline";
      ban.hidden = room.of().kind !== "group";
    },
  };
}

function bannedRow(one, room) {
  const back = h("button", { type: "button", onclick: () => attempt(back, () =>
    call("group.unban", { group: room.of().id, member: one.public_key }), `${one.name} may be here again.`), "aria-label": `Unban ${one.name}` }, "Unban");
  const { node, about } = line(one.name, h("p", { class: "buttons" }, back));
  setText(about, `banned · ${one.public_key.slice(0, 8)}…`);
  return { node };
}

function inviteForm(room) {
  const select = h("select", { name: "friend", required: true });
  const form = h("form", { onsubmit: (event) => {
    event.preventDefault();
    attempt(event.submitter, () => call(`${room.of().kind}.invite`, { group: room.of().id, friend: select.value }), "Invited.");
  } }, h("div", { class: "fields" }, h("label", {}, "Friend ", select), h("button", {}, "Invite")));
  return {
    node: form,
    update() {
      const friends = state.status.contacts.filter((one) => one.kind === "friend" && one.link !== "offline");
      form.hidden = friends.length === 0;
      const said = JSON.stringify(friends.map((one) => [one.public_key, one.name]));
      if (select.dataset.said === said) return;
      const chosen = select.value;
      select.dataset.said = said;
      select.replaceChildren(...friends.map((one) => h("option", { value: one.public_key }, one.name || one.public_key.slice(0, 8))));
      if (friends.some((one) => one.public_key === chosen)) select.value = chosen;
    },
  };
}

// What an opened one shows. `of()` is the group as it is now.
function details(of, id) {
  let own = null;
  let looking = false;
  const room = { of, moderates: () => own?.role === "founder" || own?.role === "moderator" };
  const note = h("p", { class: "muted", role: "status" }, "looking …");
  const us = h("p", { class: "muted", hidden: true });
  const members = h("ul", { class: "list", "aria-label": "Members" });
  const banned = h("ul", { class: "list", "aria-label": "Banned" });
  const invite = inviteForm(room);
  const node = h("div", { class: "details", id }, note, us, members, banned, invite.node);
  let known = { peers: [], banned: [] };

  function show() {
    invite.update();
    keyed(members, known.peers, (one) => one.public_key, (one) => memberRow(one, room));
    keyed(banned, known.banned, (one) => one.public_key, (one) => bannedRow(one, room));
  }

  async function look() {
    if (!node.isConnected) clearInterval(timer);
    if (looking || document.hidden || !node.isConnected) return;
    looking = true;
    const { kind, id: group } = of();
    try {
      const [there, kept] = await Promise.all([
        peek(`${kind}.peers`, { group }),
        kind === "group" ? peek("group.banned", { group }) : { banned: [] },
      ]);
      own = there.self ?? null;
      known = { peers: there.peers.toSorted(order), banned: kept.banned };
      setText(note, known.peers.length ? "" : "Nobody else is here yet.");
      setText(us, own ? `You are ${[own.name, own.address ?? own.address6, own.role].filter(Boolean).join(" · ")}` : "");
      us.hidden = !own;
      show();
    } catch (failure) {
      setText(note, failure.message);
    } finally {
      note.hidden = note.textContent === "";
      looking = false;
    }
  }

  const timer = setInterval(look, LOOK);
  return { node, look, update: show, close: () => clearInterval(timer) };
}

const order = (a, b) => (a.link === "offline") - (b.link === "offline") || a.name.localeCompare(b.name);

function groupRow(first) {
  let group = first;
  let opened = null;
  const id = `group-${group.id}`;
  const name = named("");
  const about = h("span", { class: "muted" });
  const button = (text, work, className) => {
    const made = h("button", { type: "button", class: className, onclick: () => work(made) }, text);
    return made;
  };
  const who = button("Members", toggle);
  who.setAttribute("aria-expanded", "false");
  const ticket = button("Ticket", (made) => attempt(made, async () => {
    const { invite } = await call("group.share", { group: group.id });
    const { showTicket } = await import("./share.js");
    location.hash = "#share";
    await showTicket(invite);
  }));
  const leave = button("Leave", (made) => attempt(made, async () => {
    const sure = await ask({ title: `Leave ${group.name}?`, verb: "Leave", danger: true });
    return sure && call(`${group.kind}.leave`, { group: group.id });
  }), "danger");
  const buttons = h("p", { class: "buttons" }, who, group.kind === "group" ? ticket : null, leave);
  const node = h("li", {}, h("div", { class: "item" }, h("div", { class: "words" }, h("p", { class: "what" }, name), about), buttons));

  function toggle() {
    if (opened) {
      opened.close();
      opened.node.remove();
      opened = null;
    } else {
      opened = details(() => group, id);
      node.append(opened.node);
      opened.look();
    }
    who.setAttribute("aria-expanded", String(opened !== null));
    setAttribute(who, "aria-controls", opened ? id : null);
  }

  return {
    node,
    update(newer) {
      group = newer;
      node.dataset.state = group.state;
      setText(name, group.name);
      setAttribute(who, "aria-label", `Members of ${group.name}`);
      const kind = group.kind === "conference" ? "conference" : group.public ? "public group" : "private group";
      const others = count(group.members, "other");
      setText(about, [kind, group.state === "online" ? others : group.state, group.reason].filter(Boolean).join(" · "));
      opened?.update();
    },
  };
}

export function update() {
  const groups = (state.status.groups ?? []).filter((one) => one.state !== "invited");
  keyed(byId("groups-list"), groups, (one) => one.id, groupRow);
}

export function start() {
  byId("group-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const { name, public: isPublic } = event.target.elements;
    attempt(event.submitter, async () => {
      await call("group.create", { name: name.value.trim(), public: isPublic.checked });
      name.value = "";
      return true;
    }, "Made; a ticket to it lets others in.");
  });
}
