/** @file The live page as one text: HTML, style and script, nothing loaded from elsewhere. */

const style = `
:root { color-scheme: light dark; --line: light-dark(#ccd, #445); --bar: #3b82c4; --bad: #c43b3b; --ok: #3b9c5a; }
body { font: 14px system-ui, sans-serif; margin: 1.5rem; max-width: 80rem; }
h1 { font-size: 1.2rem; } h2 { font-size: 1rem; margin-top: 1.5rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; } progress { width: 8rem; accent-color: var(--ok); }
svg { width: 100%; border: 1px solid var(--line); border-radius: 4px; } svg text { fill: currentColor; font-size: 11px; }
.node { fill: light-dark(#eef3fa, #223); stroke: var(--line); } .node.done { stroke: var(--ok); } .node.running { stroke: var(--bar); stroke-width: 2; }
.edge { fill: none; stroke: var(--line); } rect.attempt { fill: var(--bar); cursor: pointer; } rect.attempt.failed { fill: var(--bad); } rect.attempt.running { opacity: .55; }
pre { background: light-dark(#f4f4f8, #1c1c26); padding: .7rem; white-space: pre-wrap; max-height: 20rem; overflow: auto; } #failure { color: var(--bad); }
`;

const script = `
const byId = (id) => document.getElementById(id);
const size = (bytes) => { let unit = 0; const units = ["B", "KiB", "MiB", "GiB", "TiB"]; while (bytes >= 1024 && unit < 4) { bytes /= 1024; unit++; } return bytes.toFixed(unit ? 1 : 0) + " " + units[unit]; };
const make = (name, attributes, text) => { const node = document.createElementNS("http://www.w3.org/2000/svg", name); for (const key in attributes) node.setAttribute(key, attributes[key]); if (text !== undefined) node.textContent = text; return node; };
function draw(state) {
  const { stages, attempts } = state;
  const end = state.endMs ?? state.nowMs;
  const tasks = stages.reduce((n, s) => n + s.partitions, 0), done = stages.reduce((n, s) => n + s.done, 0);
  byId("summary").textContent = stages.length === 0 ? "No run yet." : done + " of " + tasks + " tasks, " + ((end - state.startMs) / 1000).toFixed(1) + " s" + (state.endMs ? (state.failure ? ", failed" : ", done") : "");
  byId("failure").textContent = state.failure ?? "";
  const rows = byId("stages"); rows.replaceChildren();
  stages.forEach((s) => {
    const row = rows.insertRow();
    const bar = document.createElement("progress"); bar.max = s.partitions; bar.value = s.done;
    const cells = [s.index + ": " + s.label, bar, s.done + "/" + s.partitions, s.reused, s.running, s.failed, s.rows.toLocaleString("en"), size(s.bytes), s.skew.toFixed(2), (s.cpuMs / 1000).toFixed(2)];
    for (const cell of cells) row.insertCell().append(cell);
  });
  graph(stages); timeline(state, end);
}
function graph(stages) {
  const depth = {}; const level = (s) => depth[s.key] ??= 1 + Math.max(-1, ...s.inputs.map((key) => level(stages.find((one) => one.key === key))));
  stages.forEach(level);
  const places = {}, counts = {};
  for (const s of stages) { const d = depth[s.key]; counts[d] = (counts[d] ?? 0) + 1; places[s.key] = { x: 10 + d * 230, y: 10 + (counts[d] - 1) * 60 }; }
  const svg = byId("graph"); svg.replaceChildren();
  const width = 10 + 230 * (1 + Math.max(0, ...Object.values(depth))), height = 10 + 60 * Math.max(1, ...Object.values(counts));
  svg.setAttribute("viewBox", "0 0 " + width + " " + height); svg.style.maxWidth = width + "px";
  for (const s of stages) for (const key of s.inputs) { const a = places[key], b = places[s.key]; svg.append(make("path", { class: "edge", d: "M" + (a.x + 200) + " " + (a.y + 22) + "C" + (a.x + 215) + " " + (a.y + 22) + " " + (b.x - 15) + " " + (b.y + 22) + " " + b.x + " " + (b.y + 22) })); }
  for (const s of stages) {
    const { x, y } = places[s.key];
    svg.append(make("rect", { class: "node " + (s.done === s.partitions ? "done" : s.running ? "running" : ""), x, y, width: 200, height: 44, rx: 5 }));
    const short = s.label.length > 30 ? s.label.slice(0, 29) + "…" : s.label;
    const label = make("text", { x: x + 8, y: y + 17 }, s.index + ": " + short); label.append(make("title", {}, s.label));
    svg.append(label, make("text", { x: x + 8, y: y + 34 }, s.done + "/" + s.partitions + " tasks, " + size(s.bytes)));
  }
}
function timeline(state, end) {
  const svg = byId("timeline"); svg.replaceChildren();
  const lanes = 1 + Math.max(0, ...state.attempts.map((a) => a.lane)), span = Math.max(1, end - state.startMs);
  svg.setAttribute("viewBox", "0 0 1000 " + (lanes * 18 + 4));
  for (const a of state.attempts) {
    const x = (a.startMs - state.startMs) / span * 1000, width = Math.max(1, ((a.endMs ?? end) - a.startMs) / span * 1000);
    const bar = make("rect", { class: "attempt " + (a.failure ? "failed" : a.endMs ? "" : "running"), x, y: a.lane * 18 + 3, width, height: 14, rx: 2 });
    const stage = state.stages.find((s) => s.key === a.stage);
    bar.append(make("title", {}, (stage ? stage.label : a.stage) + ", partition " + a.partition + (a.tries ? ", try " + (a.tries + 1) : "") + ", " + (((a.endMs ?? end) - a.startMs) / 1000).toFixed(2) + " s, " + size(a.bytes) + (a.failure ? "\\n" + a.failure : "")));
    bar.addEventListener("click", async () => { byId("log").textContent = await (await fetch("/log?attempt=" + encodeURIComponent(a.attempt))).text(); });
    svg.append(bar);
  }
}
new EventSource("/events").onmessage = (event) => draw(JSON.parse(event.data));
`;

/** The page; it follows `/events` and asks `/log?attempt=`. */
export const watchPage: string = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>smallpond</title><style>${style}</style></head><body>
<h1>smallpond</h1><p><b id="summary">Connecting…</b> · <a href="/trace" download="smallpond-trace.json">trace</a></p><p id="failure"></p>
<h2>Plan</h2><svg id="graph"></svg>
<h2>Stages</h2><table><thead><tr><th>stage</th><th></th><th>tasks</th><th>reused</th><th>running</th><th>failed</th><th>rows</th><th>bytes</th><th>skew</th><th>CPU s</th></tr></thead><tbody id="stages"></tbody></table>
<h2>Tasks</h2><svg id="timeline"></svg><pre id="log">Click a task for its log.</pre>
<script>${script}</script></body></html>`;
