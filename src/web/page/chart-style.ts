/** @file What all charts (uPlot) look like: colours of the style sheet, axes, and what follows a pointer. */
import { useEffect, useState } from "preact/hooks";
import type UPlot from "uplot";

/** The look of a chart in `box`. */
export interface ChartStyle {
  /** A colour of the style sheet by its name. */
  readonly colour: (name: string) => string;
  readonly xAxis: UPlot.Axis;
  readonly yAxis: UPlot.Axis;
  /** Size, cursor and legend; `onHover` gets the index under the pointer. */
  readonly options: Pick<UPlot.Options, "width" | "height" | "legend" | "cursor" | "hooks">;
}

/** Reads the look from the style sheet as it is for `box` just now. */
export function chartStyle(
  box: HTMLElement,
  onHover: (index: number | undefined) => void,
): ChartStyle {
  const style = getComputedStyle(box);
  const colour = (name: string): string => style.getPropertyValue(`--${name}`).trim();
  const axis: UPlot.Axis = {
    stroke: colour("quiet"),
    font: `11px ${style.fontFamily}`,
    ticks: { show: false },
    grid: { stroke: colour("line"), width: 1 },
  };
  return {
    colour,
    xAxis: { ...axis, size: 22, gap: 7, grid: { show: false } },
    yAxis: { ...axis, size: 44, space: 28 },
    options: {
      width: box.clientWidth,
      height: box.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      hooks: { setCursor: [(chart) => onHover(chart.cursor.idx ?? undefined)] },
    },
  };
}

/** Changes when the reader's colour scheme does, so that canvases can be drawn anew. */
export function useColourScheme(): boolean {
  const query = "(prefers-color-scheme: dark)";
  const [isDark, setDark] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const media = matchMedia(query);
    const changed = (): void => setDark(media.matches);
    media.addEventListener("change", changed);
    return () => media.removeEventListener("change", changed);
  }, []);
  return isDark;
}
