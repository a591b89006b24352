/** @file A card with a chart of the last minutes (uPlot), its title, and its legend with values. */
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import UPlot from "uplot";
import { chartStyle, useColourScheme } from "./chart-style.ts";
import { short } from "./format.ts";

/** One line of a chart. */
export interface Series {
  readonly name: string;
  /** Its colour: `--main`, `--other` or `--pale` of the style sheet. */
  readonly tone: "main" | "other" | "pale";
  readonly values: readonly number[];
  /** What the legend says, where it is not the value drawn (stacked series). */
  readonly shown?: readonly number[];
}

/** A card with a chart. `times` are seconds before now, ascending to 0. */
export function TimeChart(props: {
  title: string;
  times: readonly number[];
  /** Width of the time axis. */
  seconds: number;
  series: readonly Series[];
  /** Counts: no fractions on the axis. */
  isWhole?: boolean;
  children?: ComponentChildren;
}): JSX.Element {
  const { title, times, seconds, series, isWhole = false } = props;
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot>(undefined);
  const [hovered, setHovered] = useState<number>();
  const scheme = useColourScheme();

  useEffect(() => {
    const box = holder.current!;
    const chart = new UPlot(
      optionsOf(box, series, seconds, isWhole, setHovered),
      [[], ...series.map(() => [])],
      box,
    );
    plot.current = chart;
    const resized = new ResizeObserver(() =>
      chart.setSize({ width: box.clientWidth, height: box.clientHeight }),
    );
    resized.observe(box);
    return () => {
      resized.disconnect();
      chart.destroy();
    };
    // Made once for each colour scheme: what changes later is data.
  }, [scheme]);

  useEffect(() => {
    plot.current?.setData([[...times], ...series.map((one) => [...one.values])]);
  }, [times, series, scheme]);

  const index = hovered !== undefined && hovered < times.length ? hovered : times.length - 1;
  const values = series.map(({ values, shown = values }) => shown[index]);
  const isPast = index < times.length - 1;
  const summary = series
    .map(({ name }, s) => `${name} ${values[s] === undefined ? "–" : short(values[s])}`)
    .join(", ");
  return (
    <figure class="card chart">
      <figcaption>
        <h2>{title}</h2>
        <ul aria-hidden="true">
          {series.map(({ name, tone }, s) => (
            <li key={name} class={tone}>
              {name} <b>{values[s] === undefined ? "–" : short(values[s])}</b>
            </li>
          ))}
          {isPast && <li class="when">{Math.round(-times[index])} s ago</li>}
        </ul>
      </figcaption>
      <div class="plot" ref={holder} role="img" aria-label={`${title}: ${summary}`} />
      {props.children}
    </figure>
  );
}

function optionsOf(
  box: HTMLElement,
  series: readonly Series[],
  seconds: number,
  isWhole: boolean,
  onHover: (index: number | undefined) => void,
): UPlot.Options {
  const { colour, xAxis, yAxis, options } = chartStyle(box, onHover);
  return {
    ...options,
    padding: [8, 14, 0, 0],
    scales: {
      x: { time: false, range: [-seconds, 0] },
      y: { range: (_, __, max) => [0, roomFor(max, isWhole)] },
    },
    axes: [
      {
        ...xAxis,
        splits: [-seconds, -seconds / 2, 0],
        values: (_, splits) => splits.map(agoOf),
      },
      {
        ...yAxis,
        incrs: isWhole
          ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5]
          : [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5],
        values: (_, ticks) => ticks.map(short),
      },
    ],
    series: [
      {},
      ...series.map(({ name, tone }): UPlot.Series => {
        const ink = colour(tone);
        return {
          label: name,
          stroke: ink,
          width: tone === "pale" ? 1 : 1.75,
          points: { show: false },
          ...(tone === "other" ? {} : { fill: colour(`${tone}-fill`) }),
          ...(isWhole ? { paths: UPlot.paths.stepped!({ align: 1 }) } : {}),
        };
      }),
    ],
  };
}

/** A place on the time axis in words. */
function agoOf(seconds: number): string {
  if (seconds === 0) return "now";
  return seconds % 60 === 0 ? `−${-seconds / 60} min` : `−${-seconds} s`;
}

/** The top of the axis: above the data, and never so low that noise looks large. */
function roomFor(max: number | null, isWhole: boolean): number {
  return Math.max((max ?? 0) * 1.15, isWhole ? 4 : 10);
}
