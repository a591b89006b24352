/**
 * @file The page of a report: one HTML file without a server or a network. Lanes in the manner of
 * figure 4 of the DeepSeek-V3 report (computation above communication, forward orange, backward
 * green, weight gradients blue), exposed communication in red beneath, then every stream.
 */
import { pageScript } from "./page-script.ts";
import { pageStyle } from "./page-style.ts";
import type { DeviceProfile } from "./report.ts";

/** A device on the page. */
export interface PageDevice {
  readonly title: string;
  readonly profile: DeviceProfile;
}

/** More rectangles than this a lane are melted with their neighbours: no screen shows them. */
const maxRectangles = 20_000;
const maxNameLength = 140;
/** Rows of a table. */
const maxRows = 60;

/** One lane: starts (each from the one before) and lengths in nanoseconds, and what each is. */
interface Lane {
  readonly title: string;
  /** `phase`, `exposed`, `category` or `host`: how it is coloured. */
  readonly kind: string;
  readonly start: number[];
  readonly length: number[];
  /** Indices into `names`, `categories` and `phases`; -1 for none. */
  readonly name: number[];
  readonly category: number[];
  readonly phase: number[];
  /** Operations and gaps below it (nanoseconds) are not told apart; 0 where all are. */
  readonly grain: number;
}

/** The page of `devices`, as the text of an HTML file. `subtitle` says where they come from. */
export function profilePage(devices: readonly PageDevice[], subtitle = ""): string {
  const data = devices.map(({ title, profile }) => ({ title, ...pageData(profile) }));
  const json = JSON.stringify({ subtitle, devices: data }).replaceAll("<", "\\u003c");
  return [
    '<!doctype html><html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width,initial-scale=1">',
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; ' +
      "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">",
    `<title>baleen profile</title><style>${pageStyle}</style></head><body>`,
    '<main id="page"></main>',
    `<script type="application/json" id="data">${json}</script>`,
    `<script>${pageScript}</script></body></html>\n`,
  ].join("\n");
}

function pageData(profile: DeviceProfile): object {
  const { report, operations } = profile;
  const names = new Names();
  const lanes = [
    hostLane(profile),
    operationLane(profile, names, "Computation", "phase", computes),
    operationLane(profile, names, "Communication", "phase", communicates),
    exposedLane(profile),
    ...operations.streams.map((stream, index) =>
      operationLane(profile, names, `Stream ${stream}`, "category", (p, i) => {
        return p.operations.stream[i] === index;
      }),
    ),
  ];
  const { kernelsByName: _, phases, layers, ...figures } = report;
  const rows = { phases: phases.slice(0, maxRows), layers: layers.slice(0, maxRows) };
  return {
    report: { ...figures, ...rows, numPhases: phases.length, numLayers: layers.length },
    origin: operations.start[0],
    lanes: lanes.filter(({ start }) => start.length > 0),
    names: names.list,
    categories: operations.categories,
    phases: usedPhases(lanes, profile),
  };
}

/** The phases that rectangles name, which from now on name them by index in this list. */
function usedPhases(lanes: readonly Lane[], { phases }: DeviceProfile): object[] {
  const list: object[] = [];
  const known = new Map([[-1, -1]]);
  for (const { phase } of lanes) {
    phase.forEach((instance, i) => {
      let index = known.get(instance);
      if (index === undefined) {
        const { name, layer } = phases.instances[instance];
        index = list.push({ name, layer }) - 1;
        known.set(instance, index);
      }
      phase[i] = index;
    });
  }
  return list;
}

/** Texts by number. */
class Names {
  readonly list: string[] = [];
  private readonly known = new Map<number, number>();

  of(profile: DeviceProfile, operation: number): number {
    const id = profile.trace.name[profile.operations.row[operation]];
    let index = this.known.get(id);
    if (index === undefined) {
      const text = id < 0 ? "?" : profile.trace.strings.text(id);
      const short = text.length > maxNameLength ? `${text.slice(0, maxNameLength)}…` : text;
      index = this.list.push(short) - 1;
      this.known.set(id, index);
    }
    return index;
  }
}

function computes({ operations }: DeviceProfile, i: number): boolean {
  return operations.kernel[i] === 1 && operations.communication[i] === 0;
}

function communicates({ operations }: DeviceProfile, i: number): boolean {
  return operations.communication[i] === 1;
}

interface Rectangle {
  start: number;
  end: number;
  readonly name: number;
  readonly category: number;
  readonly phase: number;
}

function operationLane(
  profile: DeviceProfile,
  names: Names,
  title: string,
  kind: string,
  belongs: (profile: DeviceProfile, i: number) => boolean,
): Lane {
  const { operations, phases } = profile;
  const rectangles: Rectangle[] = [];
  for (let i = 0; i < operations.count; i++) {
    if (!belongs(profile, i)) continue;
    rectangles.push({
      start: operations.start[i],
      end: operations.end[i],
      name: names.of(profile, i),
      category: operations.category[i],
      phase: phases.ofOperation[i],
    });
  }
  return laneOf(title, kind, rectangles, profile.report.spanUs * 1000);
}

function exposedLane({ exposed, report }: DeviceProfile): Lane {
  const rectangles: Rectangle[] = [];
  for (let i = 0; i < exposed.length; i += 2) {
    const times = { start: exposed[i], end: exposed[i + 1] };
    rectangles.push({ ...times, name: -1, category: -1, phase: -1 });
  }
  return laneOf("Exposed", "exposed", rectangles, report.spanUs * 1000);
}

/** The phases that launched something, in the host's time. */
function hostLane({ phases, report }: DeviceProfile): Lane {
  const used = new Set(phases.ofOperation);
  const rectangles = phases.instances.flatMap(({ start, end }, phase) =>
    used.has(phase) ? [{ start, end, name: -1, category: -1, phase }] : [],
  );
  return laneOf("Host", "host", rectangles, report.spanUs * 1000);
}

/** A lane of `rectangles`, sorted by start; melted where there are too many. */
function laneOf(title: string, kind: string, rectangles: Rectangle[], spanNs: number): Lane {
  let kept = rectangles;
  let grain = 0;
  while (kept.length > maxRectangles) {
    grain = grain === 0 ? spanNs / 2 ** 20 : grain * 2;
    kept = melted(kept, grain);
  }
  let before = 0;
  const start = kept.map((rectangle) => {
    const step = rectangle.start - before;
    before = rectangle.start;
    return step;
  });
  return {
    title,
    kind,
    start,
    length: kept.map((rectangle) => rectangle.end - rectangle.start),
    name: kept.map(({ name }) => name),
    category: kept.map(({ category }) => category),
    phase: kept.map(({ phase }) => phase),
    grain,
  };
}

/** Short neighbours closer than `grain` become one, under the name of the first. */
function melted(rectangles: readonly Rectangle[], grain: number): Rectangle[] {
  const out: Rectangle[] = [];
  for (const rectangle of rectangles) {
    const last = out.at(-1);
    const near = last !== undefined && rectangle.start - last.end < grain;
    const short =
      rectangle.end - rectangle.start < grain || (last && last.end - last.start < grain);
    if (near && short) last.end = Math.max(last.end, rectangle.end);
    else out.push({ ...rectangle });
  }
  return out;
}
