/**
 * @file The Gantt chart of a simulated schedule as an SVG, after the figure of the DeepSeek-V3 report:
 * a row a rank, forward and backward coloured, overlapped pairs framed, chunks numbered. The second
 * direction (DualPipe) or the way back (folded schedules) has darker shades of the same colours.
 */
import { bubbleFormula } from "./formulas.ts";
import type { Simulation } from "./simulate.ts";
import type { ChunkId, ComputeOp, Durations, Schedule } from "./types.ts";

const left = 74;
const top = 104;
const rowHeight = 34;
const gap = 5;
const ink = "#1f2933";
const faint = "#7b8794";

type Tint = "F" | "B" | "Bi" | "W";

/** Fills of the first and of the other phases. */
const fills: Readonly<Record<Tint, readonly [string, string]>> = {
  F: ["#f6b94a", "#e8973a"],
  B: ["#86cf6a", "#5eb356"],
  Bi: ["#a6ddc4", "#72c2a4"],
  W: ["#8dbdf2", "#6a9fe0"],
};

const names: Readonly<Record<Schedule["kind"], string>> = {
  dualpipe: "DualPipe",
  dualpipev: "DualPipeV",
  "1f1b": "1F1B",
  interleaved: "Interleaved 1F1B",
  "zb-h1": "ZB-H1",
  "zb-h2": "ZB-H2",
  "zb-v": "ZB-V",
};

/** The SVG text of `simulation`, which is `schedule` under `durations`. */
export function pictureSchedule(
  schedule: Schedule,
  simulation: Simulation,
  durations: Durations,
): string {
  const scale = scaleOf(simulation);
  const chart = simulation.total * scale;
  const rows = schedule.numRanks * (rowHeight + gap);
  const width = Math.ceil(left + Math.max(chart, 560) + 128);
  const height = top + rows + 52;
  const heading = `${names[schedule.kind]}, ${schedule.numRanks} ranks, ${schedule.numMicroBatches} micro-batches`;
  const formula = bubbleFormula(schedule, durations);
  const worst = Math.max(...simulation.ranks.map((rank) => rank.bubble));
  const summary =
    `${short(simulation.total)} in all; bubble ${short(worst)} ` +
    `(${((worst / simulation.total) * 100).toFixed(1)} %)` +
    (formula === undefined ? "" : `, by the formula ${short(formula)}`) +
    `; F ${short(durations.forward)}, B ${short(durations.backward)}, W ${short(durations.weight)}` +
    (durations.overlapped === undefined ? "" : `, F&B ${short(durations.overlapped)}`);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" ` +
      `height="${height}" font-family="system-ui, -apple-system, Segoe UI, sans-serif" font-size="12">`,
    `<title>${heading}</title>`,
    '<rect width="100%" height="100%" fill="#ffffff"/>',
    text(left, 30, heading, `font-size="18" font-weight="600" fill="${ink}"`),
    text(left, 50, escapeText(summary), `fill="${faint}"`),
    ...legend(schedule),
    ...axis(simulation.total, scale, rows),
    ...simulation.ranks.flatMap((rank, r) => {
      const y = top + r * (rowHeight + gap);
      return [
        `<g class="rank">`,
        text(left - 10, y + rowHeight / 2 + 4, `rank ${r}`, `text-anchor="end" fill="${ink}"`),
        `<rect x="${left}" y="${y}" width="${round(chart)}" height="${rowHeight}" fill="#f1f3f5"/>`,
        ...rank.events.map(({ op, start, end }) => block(op, start, end, scale, y)),
        text(
          left + chart + 12,
          y + 14,
          `bubble ${short(rank.bubble)}`,
          `fill="${ink}" font-size="11"`,
        ),
        text(
          left + chart + 12,
          y + 28,
          `holds ${rank.peakActivations}`,
          `fill="${faint}" font-size="11"`,
        ),
        "</g>",
      ];
    }),
    "</svg>",
  ].join("\n");
}

/** Pixels a unit of time, such that the shortest computation has room for two digits. */
function scaleOf({ total, ranks }: Simulation): number {
  const lengths = ranks.flatMap(({ events }) => events.map(({ start, end }) => end - start));
  const shortest = Math.min(...lengths.filter((length) => length > 1e-9));
  const wanted = Number.isFinite(shortest) ? 20 / shortest : 1;
  return Math.min(wanted, 8000 / Math.max(total, 1e-9));
}

function block(op: ComputeOp, start: number, end: number, scale: number, y: number): string {
  const x = round(left + start * scale);
  const width = round((end - start) * scale);
  const title = `<title>${describe(op)}, ${short(start)} to ${short(end)}</title>`;
  if (op.op !== "FB") {
    return (
      `<g class="${op.op}">${title}` +
      `<rect x="${x}" y="${y}" width="${width}" height="${rowHeight}" fill="${fillOf(op.op, op)}" ` +
      `stroke="#ffffff" stroke-width="1"/>${label(op.chunk, x, width, y + rowHeight / 2, 12)}</g>`
    );
  }
  const half = rowHeight / 2;
  const part = (tint: Tint, id: ChunkId, at: number): string =>
    `<rect x="${x}" y="${at}" width="${width}" height="${half}" fill="${fillOf(tint, id)}"/>` +
    label(id.chunk, x, width, at + half / 2, 11);
  return (
    `<g class="FB">${title}${part("F", op.forward, y)}${part("B", op.backward, y + half)}` +
    `<rect x="${round(x + 0.75)}" y="${y + 0.75}" width="${round(width - 1.5)}" ` +
    `height="${rowHeight - 1.5}" fill="none" stroke="${ink}" stroke-width="1.5"/></g>`
  );
}

function fillOf(tint: Tint, { phase }: ChunkId): string {
  return fills[tint][Math.min(phase, 1)];
}

/** A chunk's number, where it fits. */
function label(chunk: number, x: number, width: number, y: number, size: number): string {
  const fits = width >= String(chunk).length * size * 0.62 + 2;
  const attributes = `text-anchor="middle" font-size="${size}" fill="${ink}"`;
  return fits ? text(x + width / 2, y + size * 0.36, String(chunk), attributes) : "";
}

function describe(op: ComputeOp): string {
  const words = {
    F: "forward",
    B: "backward",
    Bi: "backward for inputs",
    W: "backward for weights",
  } as const;
  const one = (kind: Tint, { phase, chunk }: ChunkId): string =>
    `${words[kind]} of micro-batch ${chunk}, phase ${phase}`;
  if (op.op !== "FB") return one(op.op, op);
  return `${one("F", op.forward)}, over ${one("B", op.backward)}`;
}

function legend(schedule: Schedule): string[] {
  const used = new Set(schedule.ranks.flat().map((step) => step.op));
  const both = schedule.routes.flat().some(({ phase }) => phase > 0);
  const entries: [Tint, string][] = [
    ["F", "forward"],
    ["B", "backward"],
    ["Bi", "backward for inputs"],
    ["W", "backward for weights"],
  ];
  const parts: string[] = [];
  let x = left;
  for (const [tint, name] of entries) {
    if (!used.has(tint) && !(tint === "B" && used.has("FB"))) continue;
    const colours = both ? fills[tint] : fills[tint].slice(0, 1);
    for (const colour of colours) {
      parts.push(`<rect x="${x}" y="66" width="14" height="14" fill="${colour}"/>`);
      x += 14;
    }
    parts.push(text(x + 6, 77, name, `fill="${ink}"`));
    x += 22 + name.length * 6.6;
  }
  if (!used.has("FB")) return parts;
  parts.push(
    `<rect x="${round(x)}" y="65" width="26" height="8" fill="${fills.F[0]}"/>`,
    `<rect x="${round(x)}" y="73" width="26" height="8" fill="${fills.B[1]}"/>`,
    `<rect x="${round(x)}" y="65" width="26" height="16" fill="none" stroke="${ink}" stroke-width="1.5"/>`,
    text(x + 32, 77, "overlapped forward and backward", `fill="${ink}"`),
  );
  return parts;
}

function axis(total: number, scale: number, rows: number): string[] {
  const y = top + rows + 6;
  const step = niceStep(90 / scale);
  const parts: string[] = [];
  for (let i = 0; i * step <= total * (1 + 1e-9); i++) {
    const x = round(left + i * step * scale);
    parts.push(
      `<line x1="${x}" x2="${x}" y1="${y - 6}" y2="${y}" stroke="#cbd2d9"/>`,
      text(x, y + 14, short(i * step), `text-anchor="middle" fill="${faint}" font-size="11"`),
    );
  }
  parts.push(text(left - 10, y + 14, "time", `text-anchor="end" fill="${faint}" font-size="11"`));
  return parts;
}

/** 1, 2 or 5 times a power of ten, at least `least`. */
function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * ([1, 2, 5].find((factor) => factor * power >= least) ?? 10);
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${round(x)}" y="${round(y)}" ${attributes}>${content}</text>`;
}

function escapeText(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

const short = (value: number): string => String(Number(value.toFixed(3)));

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
