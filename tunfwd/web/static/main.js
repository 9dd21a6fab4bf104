// Starts the page: which view is shown, and what the head of it says about the daemon and the network.

import * as activity from "./activity.js";
import * as contacts from "./contacts.js";
import * as decisions from "./decisions.js";
import * as doctor from "./doctor.js";
import * as services from "./services.js";
import * as share from "./share.js";
import { byId, h, keyed, named, setText } from "./dom.js";
import { follow, onChange, state } from "./state.js";

const VIEWS = { contacts, services, share, activity, doctor };

// Which parts of the state a view shows.
const SHOWS = {
  contacts: ["status", "samples", "ports", "offers"],
  services: ["offers", "ports", "status"],
  share: ["invites", "me"],
  activity: ["samples", "events"],
  doctor: ["me"],
};

let shown = null;

function route() {
  const wanted = location.hash.slice(1);
  if (wanted === "content") return;
  const before = shown;
  shown = wanted in VIEWS ? wanted : "contacts";
  for (const section of document.querySelectorAll(".view")) section.hidden = section.dataset.view !== shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  VIEWS[shown].update();
  VIEWS[shown].open?.();
  if (before !== null && before !== shown) scrollTo(0, 0);
}

function updateHead() {
  const { server, daemon, status } = state;
  const banner = {
    gone: "tunfwd web does not answer. This page goes on by itself once it does; if it was ended, start it again.",
    strange: "tunfwd web has been started again: open the address that it has printed.",
  }[server];
  const gone = daemon.state === "gone" ? `${daemon.message}. What is shown is how it was; this page goes on by itself.` : "";
  const text = banner ?? gone;
  setText(byId("banner"), text);
  byId("banner").hidden = text === "";
  document.body.classList.toggle("stale", text !== "");
  setText(byId("nickname"), state.me?.nickname ?? "");
  const [label, what] = text
    ? ["daemon gone", "gone"]
    : !status
      ? ["asking the daemon …", "asking"]
      : status.network === "online"
        ? ["in the Tox network", "online"]
        : ["not connected to the network", "offline"];
  byId("network").dataset.state = what;
  setText(byId("network-text"), label);
  const warnings = [...(status?.warnings ?? []), status?.offline].filter(Boolean);
  byId("warnings").hidden = warnings.length === 0;
  keyed(byId("warnings"), warnings, (one) => one, (one) => ({ node: h("li", {}, named(one)) }));
}

function start() {
  // The token has become a cookie: it stays neither in the address that people copy nor in the history.
  if (location.search) history.replaceState(null, "", location.pathname + location.hash);
  for (const view of Object.values(VIEWS)) view.start();
  addEventListener("hashchange", route);
  onChange((parts) => {
    updateHead();
    if (["offers", "friends", "status"].some((part) => parts.has(part))) decisions.update();
    if (SHOWS[shown].some((part) => parts.has(part))) VIEWS[shown].update();
  });
  route();
  updateHead();
  follow();
}

start();
