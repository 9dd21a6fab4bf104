// Asks the server to do something, and says what became of it.

import { byId, h, setText } from "./dom.js";

const TOAST_TIME = 6000; // ms

export class Failure extends Error {}

async function post(path, content) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
    });
  } catch {
    throw new Failure("tunfwd web does not answer");
  }
  return answer(response);
}

async function answer(response) {
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
  const body = isJson ? await response.json() : {};
  if (!response.ok) throw new Failure(body.error?.message ?? `tunfwd web answers with ${response.status}`);
  return body;
}

// Ask what a method of the control socket says that changes nothing.
export const peek = (method, params) => post(`do/${method}`, params);

// Call a method of the control socket. Parameters that are empty are left out.
export async function call(method, params) {
  const given = Object.entries(params).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const result = await post(`do/${method}`, Object.fromEntries(given));
  if (result.warning) toast(result.warning, true);
  return result;
}

export const qr = async (text) => (await post("qr", { text })).rows;

export async function doctor() {
  try {
    return (await answer(await fetch("doctor"))).checks;
  } catch (failure) {
    throw failure instanceof Failure ? failure : new Failure("tunfwd web does not answer");
  }
}

export function toast(text, bad = false) {
  const node = h("p", { class: bad ? "toast bad" : "toast" }, text);
  byId("toasts").append(node);
  setTimeout(() => node.remove(), bad ? 2 * TOAST_TIME : TOAST_TIME);
}

// Do something that may fail, with its button out of use meanwhile; returns what it did, or undefined.
export async function attempt(button, work, done = null) {
  if (button?.getAttribute("aria-disabled") === "true") return undefined;
  button?.setAttribute("aria-disabled", "true"); // not `disabled`, which would lose the focus
  try {
    const result = await work();
    if (done) toast(typeof done === "function" ? done(result) : done);
    return result;
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    toast(failure.message, true);
    return undefined;
  } finally {
    button?.removeAttribute("aria-disabled");
  }
}

export async function copy(text) {
  await navigator.clipboard.writeText(text);
  toast("Copied");
}

// Ask before something is done. `field`: {label, value, optional} for a text to be typed. Resolves to the text, true, or null.
export function ask({ title, text = "", verb, danger = false, field = null }) {
  const dialog = byId("dialog");
  const label = byId("dialog-field");
  const input = label.querySelector("input");
  const yes = dialog.querySelector("[data-yes]");
  setText(byId("dialog-title"), title);
  setText(byId("dialog-text"), text);
  setText(yes, verb);
  yes.classList.toggle("danger", danger);
  label.hidden = field === null;
  input.required = field !== null && !field.optional;
  setText(label.querySelector("span"), field?.label ?? "");
  input.value = field?.value ?? "";
  return new Promise((resolve) => {
    let said = null;
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      said = field ? input.value.trim() : true;
      dialog.close();
    };
    dialog.querySelector("[data-no]").onclick = () => dialog.close();
    dialog.onclose = () => resolve(said);
    dialog.showModal();
    (field ? input : danger ? dialog.querySelector("[data-no]") : yes).focus();
  });
}
