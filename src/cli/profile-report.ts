/** @file The report of `baleen profile` as text: figures, a timeline of blocks, tables with bars. */
import type {
  CountedDiff,
  DeviceProfile,
  Intervals,
  StragglerReport,
  TraceDiff,
} from "../profile-data/index.ts";

const columns = 64;
/** Phases and layers of which the text tells. */
const maxRows = 40;
const blocks = " ▁▂▃▄▅▆▇█";

/** Microseconds in a unit that suits them. */
function time(us: number): string {
  const size = Math.abs(us);
  if (size >= 1e6) return `${(us / 1e6).toFixed(3)} s`;
  if (size >= 1e3) return `${(us / 1e3).toFixed(3)} ms`;
  return `${Number(us.toFixed(3))} us`;
}

function share(part: number, whole: number): string {
  return `${(whole === 0 ? 0 : (part / whole) * 100).toFixed(1)} %`;
}

function bar(part: number, most: number, width = 20): string {
  const eighths = most <= 0 ? 0 : Math.round((part / most) * width * 8);
  const full = "█".repeat(Math.floor(eighths / 8));
  const rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
  return full + rest;
}

/** Rows in columns: the first to the left, the others to the right, the last (a bar) as it is. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, i) => {
        if (i === 0) return cell.padEnd(widths[i]);
        return i === row.length - 1 ? cell : cell.padStart(widths[i]);
      })
      .join("  ")
      .trimEnd(),
  );
}

/** How full each of the columns is, as blocks of eighths. */
function timeline(intervals: Intervals, from: number, to: number): string {
  const step = (to - from) / columns || 1;
  const filled = new Float64Array(columns);
  for (let i = 0; i < intervals.length; i += 2) {
    const [start, end] = [intervals[i] - from, intervals[i + 1] - from];
    const last = Math.min(columns - 1, Math.floor(end / step));
    for (let column = Math.floor(start / step); column <= last; column++) {
      filled[column] += Math.min(end, (column + 1) * step) - Math.max(start, column * step);
    }
  }
  return Array.from(filled, (length) => {
    // Whatever there is shows, and only a full column looks full.
    const level = Math.floor((length / step) * 8 + 1e-9);
    return blocks[Math.min(8, Math.max(length > 0 ? 1 : 0, level))];
  }).join("");
}

/** All about one device. */
export function renderReport(name: string, profile: DeviceProfile): string {
  const { report, operations } = profile;
  const { spanUs, communicationUs, idle } = report;
  const [from, to] = [operations.start[0], operations.start[0] + spanUs * 1000];
  const figures = table([
    ["span", time(spanUs), "", ""],
    ["busy", time(report.busyUs), share(report.busyUs, spanUs), ""],
    [
      "idle",
      time(report.idleUs),
      share(report.idleUs, spanUs),
      `host wait ${time(idle.hostWaitUs)}, kernel wait ${time(idle.kernelWaitUs)}, ` +
        `other ${time(idle.otherUs)}`,
    ],
    ["computation", time(report.computationUs), share(report.computationUs, spanUs), ""],
    [
      "communication",
      time(communicationUs),
      share(communicationUs, spanUs),
      `${report.communicationKernels} kernels by ${report.communicationRule}`,
    ],
    [
      "  overlapped",
      time(report.overlappedUs),
      share(report.overlappedUs, communicationUs),
      "of communication",
    ],
    [
      "  exposed",
      time(report.exposedUs),
      share(report.exposedUs, communicationUs),
      `of communication, ${share(report.exposedUs, spanUs)} of the span`,
    ],
  ]);
  return [
    `${name}: ${report.operations} operations on ${operations.streams.length} streams`,
    "",
    ...figures,
    "",
    `computation    ${timeline(profile.computation, from, to)}`,
    `communication  ${timeline(profile.communication, from, to)}`,
    `exposed        ${timeline(profile.exposed, from, to)}`,
    "",
    ...streamLines(profile),
    "",
    ...categoryLines(profile),
    ...phaseLines(profile),
    "",
    ...pathLines(profile),
  ].join("\n");
}

function streamLines({ report }: DeviceProfile): string[] {
  const head = ["stream", "operations", "busy", "host wait", "kernel wait", "other", "queue", ""];
  const rows = Object.entries(report.streams).map(([name, { operations, busyUs, idle }]) => [
    name,
    String(operations),
    time(busyUs),
    time(idle.hostWaitUs),
    time(idle.kernelWaitUs),
    time(idle.otherUs),
    String(report.queueMax[name]),
    bar(busyUs, report.spanUs),
  ]);
  const pairs = Object.entries(report.streamOverlapsUs).filter(([, us]) => us > 0);
  const overlaps = pairs.map(([pair, us]) => `${pair} ${time(us)}`).join(", ");
  const { medianUs, maxUs, count } = report.launchToStart;
  return [
    ...table([head, ...rows]),
    ...(overlaps === "" ? [] : [`at once: ${overlaps}`]),
    ...(count === 0 ? [] : [`launch to start: median ${time(medianUs)}, most ${time(maxUs)}`]),
  ];
}

function categoryLines({ report }: DeviceProfile): string[] {
  const entries = Object.entries(report.categories);
  const most = Math.max(...entries.map(([, { sumUs }]) => sumUs));
  const rows = entries.map(([name, { count, sumUs }]) => [
    name,
    String(count),
    time(sumUs),
    share(sumUs, report.sumUs),
    bar(sumUs, most),
  ]);
  return table([["kernels", "count", "time", "of all", ""], ...rows]);
}

function phaseLines({ report }: DeviceProfile): string[] {
  const kinds = [
    { title: "phase", rows: report.phases.map((phase) => ({ ...phase, title: phase.name })) },
    { title: "layer", rows: report.layers.map((one) => ({ ...one, title: String(one.layer) })) },
  ];
  return kinds.flatMap(({ title, rows }) => {
    if (rows.length === 0) return [];
    const shown = rows.slice(0, maxRows);
    const most = Math.max(...shown.map(({ busyUs }) => busyUs));
    const cells = shown.map((row) => [
      row.title,
      String(row.operations),
      time(row.busyUs),
      time(row.computationUs),
      time(row.communicationUs),
      time(row.exposedUs),
      bar(row.busyUs, most),
    ]);
    const head = [title, "operations", "busy", "computation", "communication", "exposed", ""];
    const more = rows.length - shown.length;
    return ["", ...table([head, ...cells]), ...(more > 0 ? [`and ${more} more: see --json`] : [])];
  });
}

function pathLines({ report }: DeviceProfile): string[] {
  const path = report.criticalPath;
  const parts: readonly (readonly [string, number])[] = [
    ["computation", path.computationUs],
    ["communication", path.communicationUs],
    ["copies and fills", path.memoryUs],
    ["host", path.hostUs],
    ["waits", path.waitUs],
  ];
  const rows = parts.map(([name, us]) => [
    name,
    time(us),
    share(us, path.totalUs),
    bar(us, path.totalUs),
  ]);
  return table([["critical path", `${path.operations} operations`, "", ""], ...rows]);
}

/** Who keeps whom waiting. */
export function renderRanks({ ranks, matched, unmatched }: StragglerReport): string {
  const head = ["rank", "span", "computation", "communication", "waits", "last", "causes", ""];
  const most = Math.max(...ranks.map(({ causedUs }) => causedUs));
  const rows = ranks.map((rank) => [
    rank.name,
    time(rank.spanUs),
    time(rank.computationUs),
    time(rank.communicationUs),
    time(rank.waitUs),
    `${rank.timesLast}x`,
    time(rank.causedUs),
    bar(rank.causedUs, most),
  ]);
  const rest = unmatched === 0 ? "" : ` (${unmatched} that not all ranks have are left out)`;
  return [`stragglers, by ${matched} collectives${rest}`, ...table([head, ...rows])].join("\n");
}

/** What changed, the largest change first. */
export function renderDiff(diff: TraceDiff): string {
  const signed = (us: number): string => (us > 0 ? `+${time(us)}` : time(us));
  const figures = diff.figures.map(({ name, beforeUs, afterUs, changeUs }) => [
    name,
    time(beforeUs),
    time(afterUs),
    signed(changeUs),
    share(changeUs, beforeUs),
  ]);
  const list = (title: string, rows: readonly CountedDiff[]): string[] => {
    if (rows.length === 0) return [];
    const cells = rows
      .slice(0, 12)
      .map(({ name, beforeCount, afterCount, beforeUs, afterUs, changeUs }) => [
        name.length > 60 ? `${name.slice(0, 59)}…` : name,
        `${beforeCount} to ${afterCount}`,
        time(beforeUs),
        time(afterUs),
        signed(changeUs),
      ]);
    return ["", ...table([[title, "count", "before", "after", "change"], ...cells])];
  };
  return [
    ...table([["figure", "before", "after", "change", "relative"], ...figures]),
    ...list("category", diff.categories),
    ...list("phase", diff.phases),
    ...list("kernel", diff.kernels),
  ].join("\n");
}
