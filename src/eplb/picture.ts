/**
 * @file The loads of all GPUs as an SVG: bars, one strip a layer, for a few layers; else a heat map
 * with a bar of max over mean beside each layer. Colours run from blue (below the mean) over white
 * to red (above it), over a range that the loads fill; the legend says which.
 */
import { gpuLoads, maxOverMean } from "./placement.ts";
import type { Loads } from "./types.ts";

const ink = "#1f2933";
const faint = "#7b8794";
const left = 64;
const right = 150;
const top = 72;
const chart = 760;

/** The SVG text of a placement's loads; `title` stands above it. */
export function picturePlacement(
  weight: Loads,
  phy2log: readonly ArrayLike<number>[],
  numGpus: number,
  title = "Load of each GPU",
): string {
  const loads = gpuLoads(weight, phy2log, numGpus);
  const rows = loads.map((row) => {
    const mean = row.reduce((sum, load) => sum + load, 0) / row.length || 1;
    return Array.from(row, (load) => load / mean);
  });
  const ratios = loads.map(maxOverMean);
  const asBars = rows.length <= 8;
  const range = rangeOf(rows);
  const rowHeight = asBars ? 84 : Math.max(7, Math.min(16, 900 / rows.length));
  const height = top + rows.length * rowHeight + 66;
  const width = left + chart + right;
  const average = ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length;
  const summary =
    `${rows.length} ${rows.length === 1 ? "layer" : "layers"}, ${numGpus} GPUs; busiest over mean: ` +
    `${average.toFixed(4)} on average, ${Math.max(...ratios).toFixed(4)} at worst`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${round(height)}" ` +
      `width="${width}" height="${round(height)}" ` +
      'font-family="system-ui, -apple-system, Segoe UI, sans-serif" font-size="12">',
    `<title>${escapeText(title)}: ${summary}</title>`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    text(left, 30, title, `font-size="18" font-weight="600" fill="${ink}"`),
    text(left, 52, summary, `fill="${faint}"`),
    ...(asBars ? barRows(rows, ratios, rowHeight) : heatRows(rows, ratios, rowHeight, range)),
    ...footer(numGpus, top + rows.length * rowHeight, asBars ? undefined : range),
    "</svg>",
  ].join("\n");
}

function barRows(rows: number[][], ratios: number[], rowHeight: number): string[] {
  const peak = Math.max(1.2, ...ratios);
  const tall = rowHeight - 20;
  return rows.flatMap((row, layer) => {
    const base = top + (layer + 1) * rowHeight - 8;
    const step = chart / row.length;
    const bars = row.map((ratio, gpu) => {
      const height = (ratio / peak) * tall;
      return (
        `<rect x="${round(left + gpu * step + step * 0.08)}" y="${round(base - height)}" ` +
        `width="${round(step * 0.84)}" height="${round(height)}" fill="${barColour(ratio)}">` +
        `<title>layer ${layer}, GPU ${gpu}: ${ratio.toFixed(4)} of the mean</title></rect>`
      );
    });
    const mean = round(base - tall / peak);
    return [
      `<g class="layer">`,
      text(left - 10, base - 2, String(layer), `text-anchor="end" fill="${faint}"`),
      ...bars,
      `<line x1="${left}" x2="${left + chart}" y1="${mean}" y2="${mean}" stroke="${ink}" ` +
        'stroke-width="1" stroke-dasharray="4 3"/>',
      `<line x1="${left}" x2="${left + chart}" y1="${base}" y2="${base}" stroke="#cbd2d9"/>`,
      text(left + chart + 12, mean + 4, "mean", `fill="${faint}"`),
      text(
        left + chart + 60,
        mean + 4,
        ratioText(ratios[layer]),
        `font-weight="600" fill="${ink}"`,
      ),
      "</g>",
    ];
  });
}

function heatRows(rows: number[][], ratios: number[], rowHeight: number, range: number): string[] {
  const worst = Math.max(1 + 1e-9, ...ratios);
  const every = Math.ceil(11 / rowHeight);
  const lines = rows.flatMap((row, layer) => {
    const y = top + layer * rowHeight;
    const step = chart / row.length;
    const cells = row.map(
      (ratio, gpu) =>
        `<rect x="${round(left + gpu * step)}" y="${round(y)}" width="${round(step)}" ` +
        `height="${round(rowHeight)}" fill="${heatColour(ratio, range)}">` +
        `<title>layer ${layer}, GPU ${gpu}: ${ratio.toFixed(4)} of the mean</title></rect>`,
    );
    const bar = ((ratios[layer] - 1) / (worst - 1)) * 70;
    const label =
      layer % every === 0
        ? [
            text(
              left - 8,
              y + rowHeight / 2 + 4,
              String(layer),
              `text-anchor="end" fill="${faint}"`,
            ),
          ]
        : [];
    return [
      `<g class="layer">`,
      ...label,
      ...cells,
      `<rect x="${left + chart + 12}" y="${round(y + 1)}" width="${round(Math.max(1, bar))}" ` +
        `height="${round(rowHeight - 2)}" fill="${ink}" rx="1"/>`,
      "</g>",
    ];
  });
  const scale = `1 to ${worst.toFixed(3)}`;
  return [
    text(left + chart + 12, top - 8, "busiest / mean", `fill="${faint}" font-size="11"`),
    ...lines,
    text(left + chart + 12, top + rows.length * rowHeight + 34, scale, `fill="${faint}"`),
  ];
}

function footer(numGpus: number, y: number, range: number | undefined): string[] {
  const axis = [0, Math.floor((numGpus - 1) / 2), numGpus - 1].filter(
    (g, i, all) => g !== all[i - 1],
  );
  const parts = axis.map((gpu) => {
    const x = left + ((gpu + 0.5) * chart) / numGpus;
    return text(x, y + 16, `GPU ${gpu}`, `text-anchor="middle" fill="${faint}"`);
  });
  parts.push(text(left - 8, top - 8, "layer", `text-anchor="end" fill="${faint}" font-size="11"`));
  if (range === undefined) return parts;
  for (let i = 0; i < 40; i++) {
    const ratio = 1 + range * ((i + 0.5) / 20 - 1);
    const x = left + i * 5;
    parts.push(
      `<rect x="${x}" y="${round(y + 30)}" width="5" height="10" fill="${heatColour(ratio, range)}"/>`,
    );
  }
  const words = [short(1 - range), "mean", short(1 + range)];
  words.forEach((word, i) => {
    parts.push(text(left + i * 100, y + 54, word, `text-anchor="middle" fill="${faint}"`));
  });
  return parts;
}

const ratioText = (ratio: number): string => `max ${ratio.toFixed(4)}`;

/** Blue below the mean, amber a little above, red from 1.2 times. */
function barColour(ratio: number): string {
  if (ratio <= 1) return mix("#8fb8de", "#4a90d9", ratio);
  return mix("#e9a23b", "#d64545", (ratio - 1) / 0.2);
}

/** How far from the mean the colours reach: as far as the loads, rounded up, at most to 0 and 2. */
function rangeOf(rows: readonly number[][]): number {
  const far = rows.flat().reduce((most, ratio) => Math.max(most, Math.abs(ratio - 1)), 0);
  return [0.01, 0.02, 0.05, 0.1, 0.2, 0.5].find((step) => far <= step) ?? 1;
}

function heatColour(ratio: number, range: number): string {
  const part = (ratio - 1) / range;
  return part <= 0 ? mix("#f7f7f5", "#2b6cb0", -part) : mix("#f7f7f5", "#c53030", part);
}

const short = (value: number): string => String(Number(value.toFixed(2)));

function mix(from: string, to: string, part: number): string {
  const t = Math.max(0, Math.min(1, part));
  const channel = (colour: string, i: number): number =>
    Number.parseInt(colour.slice(1 + 2 * i, 3 + 2 * i), 16);
  const mixed = [0, 1, 2].map((i) => channel(from, i) * (1 - t) + channel(to, i) * t);
  return `#${mixed.map((value) => Math.round(value).toString(16).padStart(2, "0")).join("")}`;
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${round(x)}" y="${round(y)}" ${attributes}>${escapeText(content)}</text>`;
}

function escapeText(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
