// What waits for a person, in any view: friend requests, offers, requests for ports, invitations into groups.

import { ask, attempt, call } from "./actions.js";
import { byId, h, keyed, named, setText } from "./dom.js";
import { together } from "./format.js";
import { state } from "./state.js";

function friendRequest(friend) {
  const shortKey = friend.public_key.slice(0, 8);
  return {
    key: `friend ${friend.public_key}`,
    news: `Somebody asks to be your friend: ${friend.message || shortKey}`,
    title: ["Somebody asks to be your friend"],
    detail: [friend.message ? h("q", {}, named(friend.message)) : null, h("code", {}, `${shortKey}…`)],
    yes: "Accept",
    no: "Reject",
    accept: async () => {
      const name = await ask({
        title: "Accept the friend",
        verb: "Accept",
        text: `You may give them a name of yours; a later offer still waits for your word.`,
        field: { label: "Call them", value: friend.name, optional: true },
      });
      if (name === null) return null;
      return call("friend.accept", { key: friend.public_key, name });
    },
    deny: () => call("friend.reject", { key: friend.public_key }),
  };
}

// Entries of one contact and name are decided on together.
function offer({ key, all, first, ports }) {
  const called = first.name ? [" as ", named(first.name)] : [];
  const each = (method) => async () => {
    for (const entry of all) await call(method, { offer: entry.id, contact: entry.contact });
    return true;
  };
  const asks = first.direction === "connection";
  const about = {
    key: `offer ${key}`,
    news: `${first.contact} ${asks ? "asks to reach" : "offers"} ${ports} ${first.name}`,
    title: [named(first.contact), asks ? " asks to reach " : " offers ", h("strong", {}, ports), ...called],
    detail: [asks ? "A port of this machine; nothing is reached before you allow it." : "Nothing is reached before you accept it."],
    yes: asks ? "Allow" : "Accept",
    no: "Deny",
    accept: each("offer.accept"),
    deny: each("offer.deny"),
  };
  if (!asks) return about;
  const allow = about.accept;
  about.accept = async () => {
    const text = `${first.contact} will reach ${ports} of this machine.`;
    return (await ask({ title: "Open a port of this machine?", text, verb: "Allow" })) && allow();
  };
  return about;
}

function invitation(group) {
  const inviter = group.inviter ? [named(group.inviter), " invites you into "] : ["You are invited into "];
  return {
    key: `invitation ${group.id}`,
    news: `You are invited into the ${group.kind} ${group.name}`,
    title: [...inviter, h("strong", {}, named(group.name))],
    detail: [group.kind === "group" ? "A group" : "A conference"],
    yes: "Join",
    no: "Decline",
    accept: () => call(`${group.kind}.join`, { group: group.id }),
    deny: () => call(`${group.kind}.leave`, { group: group.id }),
  };
}

export function decisions() {
  const offers = state.offers.offers.filter((one) => one.origin === "remote" && one.state === "pending");
  return [
    ...state.friends.friends.filter((one) => one.state === "pending").map(friendRequest),
    ...together(offers).map(offer),
    ...(state.status?.groups ?? []).filter((one) => one.state === "invited").map(invitation),
  ];
}

function card(first) {
  let about = first;
  const title = h("p", { class: "what" });
  const detail = h("p", { class: "muted" });
  const done = (word) => (result) => (result ? `${word}.` : "Left as it is.");
  const yes = h("button", { class: "primary", type: "button", onclick: () => attempt(yes, () => about.accept(), done("Done")) }, about.yes);
  const no = h("button", { type: "button", onclick: () => attempt(no, () => about.deny(), done("Denied")) }, about.no);
  const node = h("li", { class: "card" }, h("div", { class: "words" }, title, detail), h("p", { class: "buttons" }, yes, no));
  let said = null;
  return {
    node,
    update(newer) {
      about = newer;
      if (said === about.news) return;
      said = about.news;
      title.replaceChildren(...about.title);
      detail.replaceChildren(...about.detail.filter(Boolean).flatMap((one, number) => (number ? [" ", one] : [one])));
      yes.setAttribute("aria-label", `${about.yes}: ${about.news}`);
      no.setAttribute("aria-label", `${about.no}: ${about.news}`);
    },
  };
}

const told = new Set();

export function update() {
  const all = decisions();
  byId("waiting").hidden = all.length === 0;
  keyed(byId("decisions"), all, (one) => one.key, card);
  document.title = all.length ? `(${all.length}) tunfwd` : "tunfwd";
  const fresh = all.filter((one) => !told.has(one.key));
  told.clear();
  for (const one of all) told.add(one.key);
  if (fresh.length) setText(byId("news"), fresh.map((one) => one.news).join(". "));
}
