// Lines over time, in SVG; and the small one beside a contact.

import { h, s, setText } from "./dom.js";

const SECONDS = 300;
const HEIGHT = 132;
const EDGE = { left: 4, right: 4, top: 14, bottom: 18 };

// The next of 1, 2, 5, 10, 20, … from a value on.
function ceiling(value, least) {
  if (value <= least) return least;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((digit) => digit * power).find((one) => one >= value);
}

function linePath(points, x, y) {
  let path = "";
  let pen = false;
  for (const [time, value] of points) {
    if (value === null) pen = false;
    else {
      path += `${pen ? "L" : "M"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = true;
    }
  }
  return path;
}

export class Chart {
  // `series`: [{name, mark, className}]; `format` writes a value; `least`: what the scale goes up to at least.
  constructor(title, series, format, least) {
    Object.assign(this, { title, series, format, least, points: [], at: null });
    this.values = series.map(() => h("span", { class: "value" }));
    this.svg = s("svg", { role: "img", height: HEIGHT });
    this.node = h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, h("span", { class: "title" }, title), ...series.map((one, number) =>
        h("span", { class: `legend ${one.className}` }, h("i", { "aria-hidden": "true" }), `${one.name} `, this.values[number]))),
      this.svg,
    );
    this.svg.addEventListener("pointermove", (event) => this.pointAt(event.clientX));
    this.svg.addEventListener("pointerleave", () => this.pointAt(null));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  // `points`: [[ms, value of each series or null, …], …], oldest first.
  show(points) {
    this.points = points;
    this.draw();
  }

  pointAt(clientX) {
    this.at = clientX === null ? null : clientX - this.svg.getBoundingClientRect().left;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth;
    if (width === 0) return; // not on the screen
    const now = this.points.at(-1)?.[0] ?? Date.now();
    const values = this.points.flatMap(([, ...row]) => row.filter((value) => value !== null));
    const top = ceiling(Math.max(0, ...values), this.least);
    const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
    const x = (time) => EDGE.left + (1 - (now - time) / 1000 / SECONDS) * inner.width;
    const y = (value) => EDGE.top + (1 - value / top) * inner.height;
    const shown = this.points.filter(([time]) => time >= now - SECONDS * 1000);
    const floor = y(0);
    const parts = [0, 0.5, 1].map((part) =>
      s("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(top * part), y2: y(top * part) }));
    const label = (text, left, baseline, anchor) => s("text", { x: left, y: baseline, "text-anchor": anchor }, text);
    this.series.forEach((one, number) => {
      const line = shown.map((row) => [row[0], row[number + 1]]);
      const drawn = linePath(line, x, y);
      if (!drawn) return;
      const known = line.filter(([, value]) => value !== null);
      const unbroken = known.length === line.length;
      if (unbroken) {
        const [first, last] = [x(known[0][0]), x(known.at(-1)[0])];
        parts.push(s("path", { class: `area ${one.className}`, d: `${drawn}L${last} ${floor}L${first} ${floor}Z` }));
      }
      parts.push(s("path", { class: `line ${one.className}`, d: drawn }));
    });
    parts.push(label(this.format(top), EDGE.left, EDGE.top - 4, "start"));
    parts.push(label("5 min ago", EDGE.left, HEIGHT - 4, "start"), label("now", width - EDGE.right, HEIGHT - 4, "end"));
    const row = this.rowAt(shown, x);
    if (this.at !== null && row) {
      const ago = Math.round((now - row[0]) / 1000);
      parts.push(s("line", { class: "cursor", x1: x(row[0]), x2: x(row[0]), y1: EDGE.top, y2: floor }));
      parts.push(label(ago ? `${ago} s ago` : "now", Math.min(Math.max(x(row[0]), 50), width - 50), EDGE.top - 4, "middle"));
    }
    const written = this.series.map((_, number) => {
      const value = row?.[number + 1] ?? null;
      return value === null ? "–" : this.format(value);
    });
    this.values.forEach((node, number) => setText(node, written[number]));
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const said = this.series.map((one, number) => `${one.name} ${written[number]}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title} over five minutes; ${said}`);
    this.svg.replaceChildren(...parts);
  }

  rowAt(rows, x) {
    if (this.at === null) return rows.at(-1);
    return rows.reduce((best, row) => (best && Math.abs(x(best[0]) - this.at) <= Math.abs(x(row[0]) - this.at) ? best : row), null);
  }
}

const SPARK = { width: 120, height: 24, seconds: 60 };

export class Spark {
  constructor() {
    this.line = s("path", { class: "line" });
    this.area = s("path", { class: "area" });
    this.node = s("svg", { class: "spark", viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, "aria-hidden": "true" }, this.area, this.line);
  }

  // `points`: [[ms, value], …].
  show(points) {
    const now = points.at(-1)?.[0] ?? 0;
    const shown = points.filter(([time]) => time >= now - SPARK.seconds * 1000);
    const top = Math.max(1000, ...shown.map(([, value]) => value));
    const x = (time) => SPARK.width * (1 - (now - time) / 1000 / SPARK.seconds);
    const y = (value) => SPARK.height - 1 - (value / top) * (SPARK.height - 3);
    const drawn = linePath(shown, x, y);
    this.line.setAttribute("d", drawn);
    this.area.setAttribute("d", drawn && `${drawn}L${SPARK.width} ${SPARK.height}L${x(shown[0][0])} ${SPARK.height}Z`);
  }
}
