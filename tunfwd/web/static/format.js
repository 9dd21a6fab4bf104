// Figures and times, as the command line writes them.

export function size(count) {
  if (count < 1000) return `${Math.round(count)} B`;
  let value = count;
  let unit = "";
  for (unit of ["kB", "MB", "GB", "TB", "PB"]) {
    value /= 1000;
    if (value < 999.5) break;
  }
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
}

export const rate = (bytes) => `${size(bytes)}/s`;

export function span(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function milliseconds(seconds) {
  const value = seconds * 1000;
  return `${value.toFixed(value < 1 ? 2 : value < 100 ? 1 : 0)} ms`;
}

export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
export const timeOf = (iso) => clock.format(new Date(iso));
export const dayOf = (iso) => day.format(new Date(iso));

// Ports of one thing: "8080/tcp", "27015/tcp 27015-27030/udp".
export function ports(entries) {
  const byProtocol = new Map();
  for (const { port, protocol } of entries) byProtocol.set(protocol, [...(byProtocol.get(protocol) ?? []), port]);
  return [...byProtocol].map(([protocol, numbers]) => `${ranges(numbers)}/${protocol}`).join(" ");
}

function ranges(numbers) {
  const found = [];
  for (const number of [...new Set(numbers)].sort((a, b) => a - b)) {
    const last = found.at(-1);
    if (last && last[1] + 1 === number) last[1] = number;
    else found.push([number, number]);
  }
  return found.map(([from, to]) => (from === to ? from || "any" : `${from}-${to}`)).join(",");
}

// Whether it leads to a contact: what they offer, or what we asked them for.
export const isTheirs = (entry) => (entry.direction === "server") === (entry.origin === "remote");

// Entries of one contact and one name are one thing to a person.
export function together(entries) {
  const groups = new Map();
  for (const entry of entries) {
    const apart = entry.name ? "" : entry.id;
    const key = JSON.stringify([entry.contact, entry.name, entry.direction, entry.origin, apart]);
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  return [...groups].map(([key, all]) => ({ key, all, first: all[0], ports: ports(all) }));
}

// What a person typed: "8080 27015-27030/udp"; a port alone is TCP's.
export const portList = (text) =>
  text.split(/[\s,]+/).filter(Boolean).map((one) => (one.includes("/") ? one : `${one}/tcp`));
