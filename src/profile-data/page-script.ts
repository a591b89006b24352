/** @file The script of the report's page: canvas lanes with zoom, pan, keys and a readout. */

/** JavaScript for browsers, whole; reads the JSON in the element `data`. */
export const pageScript: string = String.raw`
"use strict";
const { subtitle, devices } = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const make = (tag, parent, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
};
const digits = (value) => Number(value.toPrecision(4));
const time = (us) => {
  if (Math.abs(us) >= 1e6) return digits(us / 1e6) + " s";
  return Math.abs(us) >= 1000 ? digits(us / 1000) + " ms" : digits(us) + " µs";
};
const share = (part, whole) => (whole ? ((100 * part) / whole).toFixed(1) : "0.0") + " %";
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const palette = ["#3d7ea6", "#c96a3b", "#7a9a3b", "#8a63a8", "#2f9e8f", "#c2a83e", "#b5507f",
  "#5f7d95", "#94653e", "#4d9a57", "#7f78c4", "#a3a3a3", "#c98a8a", "#5aa9c9", "#86743a", "#666e73"];
// As in the DeepSeek-V3 report: forward orange, backward green, weights blue.
const phaseColour = (name) => {
  if (name === "forward & backward") return "#b79ac9";
  if (/\(F\)|forward|\bfwd\b|^F\b/i.test(name)) return "#eda35b";
  if (/\(W\)|weight|wgrad|^W\b/i.test(name)) return "#7fb1dd";
  if (/\(B\)|backward|\bbwd\b|^B/i.test(name)) return "#8fbf7f";
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return palette[hash % palette.length];
};

function prepare(lane) {
  let at = 0;
  lane.from = lane.start.map((step) => (at += step));
  // The longest of a lane bounds how far left of the view something visible may begin.
  lane.longest = lane.length.reduce((most, length) => Math.max(most, length), 0);
  lane.height = { exposed: 8, host: 16, phase: 40 }[lane.kind] ?? 18;
  return lane;
}

function tiles(parent, report) {
  const row = make("div", parent, undefined, "tiles");
  const tile = (name, value, note, className = "") => {
    const box = make("div", row, undefined, "tile " + className);
    make("b", box, value);
    make("span", box, note ? name + ", " + note : name);
  };
  tile("span", time(report.spanUs));
  tile("idle", time(report.idleUs), share(report.idleUs, report.spanUs));
  tile("computation", time(report.computationUs), share(report.computationUs, report.spanUs));
  tile("communication", time(report.communicationUs), share(report.communicationUs, report.spanUs));
  tile("overlapped", share(report.overlappedUs, report.communicationUs), "of communication");
  tile("exposed", time(report.exposedUs), share(report.exposedUs, report.spanUs) + " of span", "bad");
  const { hostUs, waitUs, totalUs } = report.criticalPath;
  tile("critical path", share(totalUs - hostUs - waitUs, totalUs), "on the device");
}

function bars(parent, title, heads, rows, colour, total = rows.length) {
  if (rows.length === 0) return;
  const block = make("section", parent);
  make("h2", block, title);
  const table = make("table", block);
  const head = make("tr", table);
  for (const text of [...heads, ""]) make("th", head, text);
  const most = Math.max(...rows.map((row) => row.bar));
  for (const { cells, bar } of rows) {
    const line = make("tr", table);
    for (const cell of cells) make("td", line, cell);
    const box = make("div", make("td", line, undefined, "bar"));
    box.style.width = (100 * bar) / (most || 1) + "%";
    box.style.background = colour(cells[0]);
  }
  if (total > rows.length) make("p", block, "and " + (total - rows.length) + " more", "hint");
}

function draw(device) {
  make("h2", page, device.title);
  const { report, categories, phases, names } = device;
  tiles(page, report);
  const lanes = device.lanes.map(prepare);
  const box = make("div", page, undefined, "lanes");
  const canvas = make("canvas", box);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", device.title + ": " + lanes.map((lane) => lane.title).join(", "));
  const tip = make("div", box, undefined, "tip");
  const grain = Math.max(...lanes.map((lane) => lane.grain));
  make("p", page, "Wheel or + and −: zoom. Drag or arrows: move. Double click or 0: all of it." +
    (grain ? " Too many operations: what is shorter than " + time(grain / 1000) + " is melted." : ""),
    "hint");
  const sorted = Object.keys(report.categories);
  const colourOf = (category) => /^(forward|backward|weights)/.test(category)
    ? phaseColour(category)
    : palette[sorted.indexOf(category) % palette.length];

  const left = 118, top = 26, gap = 7;
  const [first, last] = [device.origin, device.origin + report.spanUs * 1000];
  let [from, to] = [first, last];
  let lines = 0;
  for (const lane of lanes) {
    lane.y = top + lines;
    lines += lane.height + (lane.kind === "phase" && lane.title === "Communication" ? 2 : gap);
  }
  const height = top + lines + 4;
  canvas.style.height = height + "px";

  function colour(lane, i) {
    if (lane.kind === "exposed") return style("--red");
    const phase = phases[lane.phase[i]];
    if (lane.kind !== "category" && phase) return phaseColour(phase.name);
    return colourOf(categories[lane.category[i]]) ?? "#999";
  }

  function ruler(context, width) {
    const step = 10 ** Math.floor(Math.log10((to - from) / 4));
    const nice = [1, 2, 5, 10].find((by) => (to - from) / (step * by) <= 8) * step;
    context.fillStyle = style("--faint");
    context.strokeStyle = style("--line");
    context.lineWidth = 1;
    context.font = "11px system-ui, sans-serif";
    for (let at = Math.ceil((from - first) / nice) * nice; at + first <= to; at += nice) {
      const x = left + ((at + first - from) / (to - from)) * (width - left);
      context.beginPath();
      context.moveTo(x, 18);
      context.lineTo(x, height);
      context.stroke();
      context.fillText(time(at / 1000), x + 4, 13);
    }
  }

  function paintLane(context, lane, width) {
    const scale = (width - left) / (to - from);
    context.fillStyle = style("--track");
    context.fillRect(left, lane.y, width - left, lane.height);
    let label = null;
    const flush = () => {
      if (!label) return;
      const [x, end] = [Math.max(left, label.x), Math.min(width, label.end)];
      const text = label.text.toUpperCase();
      if (end - x > context.measureText(text).width + 8) {
        context.fillStyle = "#16242c";
        context.textAlign = "center";
        context.fillText(text, (x + end) / 2, lane.y + lane.height / 2 + 4);
        context.textAlign = "left";
      }
      label = null;
    };
    context.font = "600 11px system-ui, sans-serif";
    let drawn = -1;
    for (let i = lowerBound(lane.from, from - lane.longest); i < lane.from.length; i++) {
      if (lane.from[i] > to) break;
      const x = left + (lane.from[i] - from) * scale;
      const end = x + lane.length[i] * scale;
      if (end < left) continue;
      const right = Math.max(end, x + 0.7);
      if (right <= drawn && lane.kind !== "phase") continue;
      drawn = Math.max(drawn, right);
      const x0 = Math.max(left, x);
      if (lane.kind !== "exposed" && lane.kind !== "category" && lane.phase[i] >= 0) {
        const { phase } = lane;
        if (label && label.phase !== phase[i]) flush();
        if (label) label.end = Math.max(label.end, end);
        else label = { phase: phase[i], x, end, text: phases[phase[i]].name };
      }
      context.fillStyle = colour(lane, i);
      context.fillRect(x0, lane.y, Math.max(0.7, Math.min(right, width) - x0), lane.height);
      if (end - x > 3 && lane.kind !== "exposed") {
        context.fillStyle = style("--card");
        context.fillRect(Math.min(end, width) - 0.5, lane.y, 0.5, lane.height);
      }
    }
    flush();
    context.fillStyle = lane.kind === "exposed" ? style("--red") : style("--ink");
    context.font = "12px system-ui, sans-serif";
    context.fillText(lane.title, 10, lane.y + lane.height / 2 + 4);
  }

  function paint() {
    const ratio = window.devicePixelRatio || 1;
    const width = box.clientWidth;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    ruler(context, width);
    for (const lane of lanes) paintLane(context, lane, width);
    canvas.dataset.from = String((from - first) / 1000);
    canvas.dataset.to = String((to - first) / 1000);
  }

  function look(nextFrom, nextTo) {
    const length = Math.min(Math.max(nextTo - nextFrom, 200), last - first || 1);
    from = Math.min(Math.max(nextFrom, first), last - length);
    to = from + length;
    paint();
  }
  const timeAt = (x) => from + ((x - left) / (box.clientWidth - left)) * (to - from);
  const zoom = (at, factor) => look(at - (at - from) * factor, at + (to - at) * factor);

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(timeAt(Math.max(left, event.offsetX)), Math.exp(event.deltaY * 0.0015));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => look(first, last));
  canvas.addEventListener("keydown", (event) => {
    const step = (to - from) / 8;
    const middle = (from + to) / 2;
    if (event.key === "ArrowLeft") look(from - step, to - step);
    else if (event.key === "ArrowRight") look(from + step, to + step);
    else if (event.key === "+" || event.key === "=") zoom(middle, 0.6);
    else if (event.key === "-") zoom(middle, 1 / 0.6);
    else if (event.key === "0") look(first, last);
    else return;
    event.preventDefault();
  });
  let grip = null;
  canvas.addEventListener("pointerdown", (event) => {
    grip = { x: event.offsetX, from, to };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => { grip = null; });
  canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
  canvas.addEventListener("pointermove", (event) => {
    if (grip) {
      const shift = ((grip.x - event.offsetX) / (box.clientWidth - left)) * (grip.to - grip.from);
      look(grip.from + shift, grip.to + shift);
    }
    readout(event.offsetX, event.offsetY);
  });

  function readout(x, y) {
    const lane = lanes.find((one) => y >= one.y && y < one.y + one.height);
    const at = timeAt(x);
    const slack = (to - from) / box.clientWidth;
    let hit = -1;
    if (lane && x >= left) {
      for (let i = lowerBound(lane.from, at - lane.longest - slack); i < lane.from.length; i++) {
        if (lane.from[i] > at + slack) break;
        if (lane.from[i] + lane.length[i] >= at - slack) hit = i;
      }
    }
    tip.style.display = hit < 0 ? "none" : "block";
    if (hit < 0) return;
    tip.textContent = words(lane, hit);
    tip.style.left = Math.min(x + 14, box.clientWidth - tip.offsetWidth - 8) + "px";
    const below = y + 18 + tip.offsetHeight < height;
    tip.style.top = (below ? y + 18 : Math.max(0, y - tip.offsetHeight - 8)) + "px";
  }
  function words(lane, i) {
    const phase = phases[lane.phase[i]];
    const parts = [time(lane.length[i] / 1000) + " from " + time((lane.from[i] - first) / 1000)];
    if (lane.kind === "exposed") parts.push("communication beside which nothing is computed");
    if (phase) parts.push(phase.name + ", layer " + phase.layer);
    if (lane.category[i] >= 0) parts.push(categories[lane.category[i]]);
    if (lane.name[i] >= 0) parts.push(names[lane.name[i]]);
    return parts.join(" · ");
  }

  paint();
  new ResizeObserver(paint).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  const legend = make("div", page, undefined, "legend");
  for (const { name } of report.phases.slice(0, 40)) {
    const item = make("span", legend, "");
    make("i", item).style.background = phaseColour(name);
    item.append(name);
  }
  const tables = make("div", page, undefined, "tables");
  bars(tables, "Kernels", ["category", "count", "time", "of span"],
    Object.entries(report.categories).map(([name, { count, sumUs }]) =>
      ({ cells: [name, count, time(sumUs), share(sumUs, report.spanUs)], bar: sumUs })), colourOf);
  bars(tables, "Phases", ["phase", "times", "busy", "communication", "exposed"],
    report.phases.map((p) => ({ cells: [p.name, p.instances, time(p.busyUs),
      time(p.communicationUs), time(p.exposedUs)], bar: p.busyUs })), phaseColour,
    report.numPhases);
  bars(tables, "Layers", ["layer", "kernels", "busy", "communication", "exposed"],
    report.layers.map((l) => ({ cells: [String(l.layer), l.operations, time(l.busyUs),
      time(l.communicationUs), time(l.exposedUs)], bar: l.busyUs })), () => palette[0],
    report.numLayers);
}

function lowerBound(values, wanted) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

const title = make("h1", page, "baleen profile");
if (subtitle) make("small", title, subtitle);
for (const device of devices) draw(device);
`;
