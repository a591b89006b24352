/** @file The day in four charts over its hours: nodes, throughput, latency, money; and the balancers. */
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import UPlot from "uplot";
import type { PlanDocument } from "../../../planner/index.ts";
import { chartStyle, useColourScheme } from "../chart-style.ts";
import { short } from "../format.ts";

interface Line {
  readonly name: string;
  readonly tone: "main" | "other" | "pale";
  readonly values: readonly number[];
  readonly isStepped?: boolean;
  readonly isDashed?: boolean;
}

/** All charts of the day. */
export function DayCharts({ plan }: { plan: PlanDocument }): JSX.Element {
  const { windows } = plan.day;
  const hours = windows.map(({ hour }) => hour);
  const of = (value: (window: (typeof windows)[number]) => number) => windows.map(value);
  const article: Line[] = plan.isArticle
    ? [
        {
          name: "article",
          tone: "other",
          values: plan.publishedNodes,
          isStepped: true,
          isDashed: true,
        },
      ]
    : [];
  const nodes: Line = {
    name: "simulated",
    tone: "main",
    values: of((w) => w.nodes),
    isStepped: true,
  };
  return (
    <div class="charts">
      <DayChart title="Nodes in use" hours={hours} lines={[nodes, ...article]} />
      <DayChart
        title="Tokens per second and node"
        hours={hours}
        lines={[
          { name: "prefill", tone: "main", values: of((w) => w.prefillPerNode) },
          { name: "decode", tone: "other", values: of((w) => w.decodePerNode) },
        ]}
      />
      <DayChart
        title="Time to the first token"
        unit="s"
        hours={hours}
        lines={[
          { name: "99 %", tone: "pale", values: of((w) => w.ttftMs.p99 / 1e3) },
          { name: "median", tone: "main", values: of((w) => w.ttftMs.median / 1e3) },
        ]}
      />
      <DayChart
        title="Time between tokens"
        unit="ms"
        hours={hours}
        lines={[
          { name: "99 %", tone: "pale", values: of((w) => w.tpotMs.p99) },
          { name: "median", tone: "main", values: of((w) => w.tpotMs.median) },
        ]}
      />
      <DayChart
        title="Dollars an hour"
        hours={hours}
        lines={[
          { name: "revenue", tone: "main", values: of((w) => w.revenueDollars) },
          { name: "cost", tone: "other", values: of((w) => w.costDollars), isStepped: true },
        ]}
      />
      <DayChart
        title="Balancedness"
        unit="mean over busiest"
        most={1}
        hours={hours}
        lines={[
          { name: "prompts", tone: "pale", values: of((w) => w.balancedness.promptTokens) },
          { name: "cache", tone: "main", values: of((w) => w.balancedness.kvTokens) },
          { name: "experts", tone: "other", values: of((w) => w.balancedness.experts) },
        ]}
      />
    </div>
  );
}

function DayChart(props: {
  title: string;
  unit?: string;
  most?: number;
  hours: readonly number[];
  lines: readonly Line[];
}): JSX.Element {
  const { title, unit, most, hours, lines } = props;
  const holder = useRef<HTMLDivElement>(null);
  const [hovered, setHovered] = useState<number>();
  const scheme = useColourScheme();
  useEffect(() => {
    const box = holder.current!;
    const data: UPlot.AlignedData = [[...hours], ...lines.map(({ values }) => [...values])];
    const chart = new UPlot(optionsOf(box, lines, most, setHovered), data, box);
    const resized = new ResizeObserver(() =>
      chart.setSize({ width: box.clientWidth, height: box.clientHeight }),
    );
    resized.observe(box);
    return () => {
      resized.disconnect();
      chart.destroy();
    };
    // The data never change: made once for each colour scheme.
  }, [scheme]);
  const said = (line: Line): string => {
    const value = hovered === undefined ? maxOf(line.values) : line.values[hovered];
    return value < 10 ? value.toFixed(2) : short(value);
  };
  const summary = lines
    .map((line) => `${line.name} at most ${short(maxOf(line.values))}`)
    .join(", ");
  return (
    <figure class="card chart">
      <figcaption>
        <h2>
          {title} {unit && <small>{unit}</small>}
        </h2>
        <ul aria-hidden="true">
          {lines.map((line) => (
            <li key={line.name} class={line.tone}>
              {line.name} <b>{said(line)}</b>
            </li>
          ))}
          {(hovered !== undefined || lines.length < 3) && (
            <li class="when">{hovered === undefined ? "most" : clock(hours[hovered])}</li>
          )}
        </ul>
      </figcaption>
      <div class="plot" ref={holder} role="img" aria-label={`${title}: ${summary}`} />
    </figure>
  );
}

function optionsOf(
  box: HTMLElement,
  lines: readonly Line[],
  most: number | undefined,
  onHover: (index: number | undefined) => void,
): UPlot.Options {
  const { colour, xAxis, yAxis, options } = chartStyle(box, onHover);
  return {
    ...options,
    padding: [8, 20, 0, 0],
    scales: {
      x: { time: false, range: [0, 24] },
      y: { range: (_, __, max) => [0, most ?? (max ?? 1) * 1.12] },
    },
    axes: [
      {
        ...xAxis,
        splits: [0, 6, 12, 18, 24],
        values: (_, splits) => splits.map(clock),
      },
      {
        ...yAxis,
        values: (_, ticks) => ticks.map(most === undefined ? short : String),
        ...(most === undefined ? {} : { splits: [0, 0.25, 0.5, 0.75, 1].map((x) => x * most) }),
      },
    ],
    series: [
      {},
      ...lines.map(
        ({ name, tone, isStepped, isDashed }): UPlot.Series => ({
          label: name,
          stroke: colour(tone),
          width: 1.75,
          points: { show: false },
          ...(tone === "main" ? { fill: colour("main-fill") } : {}),
          ...(isDashed ? { dash: [5, 4] } : {}),
          ...(isStepped ? { paths: UPlot.paths.stepped!({ align: 1 }) } : {}),
        }),
      ),
    ],
  };
}

function maxOf(values: readonly number[]): number {
  return Math.max(...values);
}

function clock(hour: number): string {
  const minutes = Math.round(hour * 60);
  const two = (value: number) => String(value).padStart(2, "0");
  return `${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
}
