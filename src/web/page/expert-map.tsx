/** @file A heat map of the tokens that each expert received: layers down, experts across. */
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useColourScheme } from "./chart-style.ts";
import { percent, short } from "./format.ts";
import type { ExpertWindow } from "./history.ts";

/** From no tokens, over an even share (the middle), to twice that and more. */
const ramps = {
  light: ["#f0f4f4", "#a9d3d4", "#4a9cab", "#155c77", "#0b2b45"],
  dark: ["#17242c", "#1f4d5b", "#2f8798", "#74c9cd", "#e4f8ef"],
};

/** Room for the numbers of layers and experts, in CSS pixels. */
const leftPx = 26;
const topPx = 5;
const bottomPx = 18;

interface Cell {
  readonly layer: number;
  readonly expert: number;
}

/** The card. Arrow keys walk over the cells; the line below says their numbers. */
export function ExpertMap({ load }: { load: ExpertWindow | undefined }): JSX.Element {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [cell, setCell] = useState<Cell>();
  const [width, setWidth] = useState(0);
  const isDark = useColourScheme();
  const layers = load?.layers ?? 0;
  const experts = load?.experts ?? 0;
  const isEmpty = layers * experts === 0;
  const rowPx = Math.max(5, Math.min(26, Math.floor(260 / Math.max(1, layers))));

  useEffect(() => {
    const box = canvas.current;
    if (!box) return;
    const resized = new ResizeObserver(() => setWidth(box.clientWidth));
    resized.observe(box);
    return () => resized.disconnect();
  }, [isEmpty]);

  useEffect(() => {
    if (canvas.current && load && width > 0) {
      draw(canvas.current, load, rowPx, isDark ? "dark" : "light", cell);
    }
  }, [load, width, rowPx, isDark, cell]);

  const walk = (event: KeyboardEvent): void => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    setCell(({ layer, expert } = { layer: 0, expert: 0 }) => ({
      layer: Math.min(layers - 1, Math.max(0, layer + step[0])),
      expert: Math.min(experts - 1, Math.max(0, expert + step[1])),
    }));
  };
  const point = (event: MouseEvent): void => {
    const x = event.offsetX - leftPx;
    const expert = Math.floor((x / (width - leftPx)) * experts);
    const layer = Math.floor((event.offsetY - topPx) / rowPx);
    const isInside = x >= 0 && layer >= 0 && expert < experts && layer < layers;
    setCell(isInside ? { layer, expert } : undefined);
  };
  return (
    <figure class="card chart experts">
      <figcaption>
        <h2>
          Expert load <small>tokens per MoE layer and expert</small>
        </h2>
        {!isEmpty && <Scale isDark={isDark} />}
      </figcaption>
      {isEmpty ? (
        <p class="none">{load ? "This model has no routed experts." : "Waiting for the engine."}</p>
      ) : (
        <>
          <canvas
            ref={canvas}
            style={{ height: `${topPx + layers * rowPx + bottomPx}px` }}
            tabIndex={0}
            role="img"
            aria-label={`${layers} layers of ${experts} experts. ${summaryOf(load!)}`}
            onMouseMove={point}
            onMouseLeave={() => setCell(undefined)}
            onBlur={() => setCell(undefined)}
            onKeyDown={walk}
          />
          <p class="readout" aria-live="polite">
            {cell ? cellText(load!, cell) : summaryOf(load!)}
          </p>
        </>
      )}
    </figure>
  );
}

const steps: Readonly<Record<string, readonly [layers: number, experts: number]>> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

function Scale({ isDark }: { isDark: boolean }): JSX.Element {
  const ramp = ramps[isDark ? "dark" : "light"];
  return (
    <div class="scale" aria-hidden="true">
      none <i style={{ background: `linear-gradient(90deg, ${ramp.join(", ")})` }} /> twice an even
      share
    </div>
  );
}

function rowOf(load: ExpertWindow, layer: number): readonly number[] {
  return load.counts.slice(layer * load.experts, (layer + 1) * load.experts);
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}

/** Mean over maximum, averaged over layers: 1 where all experts receive the same. */
function balanceOf(load: ExpertWindow): number {
  let sum = 0;
  for (let layer = 0; layer < load.layers; layer++) {
    const row = rowOf(load, layer);
    const most = Math.max(...row);
    sum += most > 0 ? sumOf(row) / load.experts / most : 1;
  }
  return sum / load.layers;
}

function whenOf(load: ExpertWindow): string {
  return load.seconds === undefined ? "since the start" : `last ${Math.round(load.seconds)} s`;
}

function summaryOf(load: ExpertWindow): string {
  if (sumOf(load.counts) === 0) return "No tokens yet.";
  const when = whenOf(load);
  const balance = percent(balanceOf(load));
  return `${when[0].toUpperCase()}${when.slice(1)}: balance ${balance} (mean over busiest).`;
}

function cellText(load: ExpertWindow, { layer, expert }: Cell): string {
  const row = rowOf(load, layer);
  const tokens = row[expert];
  const total = sumOf(row);
  const share = total > 0 ? tokens / total : 0;
  return (
    `MoE layer ${layer}, expert ${expert}: ${short(tokens)} tokens, ${percent(share)} of the ` +
    `layer's (even: ${percent(1 / load.experts)}), ${whenOf(load)}.`
  );
}

function draw(
  canvas: HTMLCanvasElement,
  load: ExpertWindow,
  rowPx: number,
  scheme: keyof typeof ramps,
  cell: Cell | undefined,
): void {
  const { layers, experts } = load;
  const ratio = devicePixelRatio;
  const { clientWidth, clientHeight } = canvas;
  canvas.width = clientWidth * ratio;
  canvas.height = clientHeight * ratio;
  const context = canvas.getContext("2d")!;
  context.scale(ratio, ratio);
  context.translate(0, topPx);
  const columnPx = (clientWidth - leftPx) / experts;
  const gap = columnPx >= 6 && rowPx >= 6 ? 1.5 : 0;
  for (let layer = 0; layer < layers; layer++) {
    const row = rowOf(load, layer);
    const even = sumOf(row) / experts;
    for (let expert = 0; expert < experts; expert++) {
      context.fillStyle = colourOf(ramps[scheme], even > 0 ? row[expert] / even / 2 : 0);
      const x = leftPx + expert * columnPx;
      // Without gaps, cells overlap a little so that no seam shows between them.
      const width = gap ? columnPx - gap : columnPx + 0.5;
      roundedBox(context, x, layer * rowPx, width, rowPx - gap || rowPx, gap ? 2.5 : 0);
    }
  }
  const style = getComputedStyle(canvas);
  if (cell) {
    context.strokeStyle = style.getPropertyValue("--ink");
    context.lineWidth = 1.5;
    const x = leftPx + cell.expert * columnPx;
    context.strokeRect(x, cell.layer * rowPx, columnPx - gap, rowPx - gap);
  }
  drawNumbers(context, style, load, rowPx, columnPx);
}

function drawNumbers(
  context: CanvasRenderingContext2D,
  style: CSSStyleDeclaration,
  { layers, experts }: ExpertWindow,
  rowPx: number,
  columnPx: number,
): void {
  context.fillStyle = style.getPropertyValue("--quiet");
  context.font = `11px ${style.fontFamily}`;
  context.textBaseline = "middle";
  context.textAlign = "right";
  const everyRow = Math.ceil(14 / rowPx);
  for (let layer = 0; layer < layers; layer += everyRow) {
    context.fillText(String(layer), leftPx - 8, (layer + 0.5) * rowPx);
  }
  context.textAlign = "center";
  const everyColumn = [1, 2, 4, 8, 16, 32, 64].find((step) => step * columnPx >= 26) ?? 128;
  for (let expert = 0; expert < experts; expert += everyColumn) {
    const x = leftPx + (expert + 0.5) * columnPx;
    context.fillText(String(expert), x, layers * rowPx + bottomPx / 2 + 1);
  }
}

function roundedBox(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  height: number,
  radius: number,
): void {
  context.beginPath();
  context.roundRect(x, y, width, height, radius);
  context.fill();
}

/** The colour at `at` (0 to 1, more is the last) between the stops of a ramp. */
function colourOf(ramp: readonly string[], at: number): string {
  const place = Math.min(1, at) * (ramp.length - 1);
  const stop = Math.min(ramp.length - 2, Math.floor(place));
  const mix = place - stop;
  const [from, to] = [ramp[stop], ramp[stop + 1]].map((hex) =>
    [1, 3, 5].map((start) => Number.parseInt(hex.slice(start, start + 2), 16)),
  );
  const mixed = from.map((value, channel) => Math.round(value + (to[channel] - value) * mix));
  return `rgb(${mixed.join(" ")})`;
}
