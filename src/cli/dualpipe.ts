/** @file `baleen dualpipe`: pipeline schedules, simulated. */
import { writeFileSync } from "node:fs";
import {
  bubbleFormula,
  makeSchedule,
  pictureSchedule,
  type Schedule,
  type Simulation,
  scheduleKinds,
  searchSchedule,
  simulate,
  toTuples,
  traceSimulation,
} from "../dualpipe/index.ts";
import { writeTrace } from "../trace/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { UsageError } from "./flags.ts";

const actions = ["schedule", "simulate", "picture", "search"] as const;

/** Prints a schedule's steps, or what they cost. */
export const dualpipe: Command = defineCommand({
  name: "dualpipe",
  summary: "Make and simulate pipeline schedules: DualPipe, DualPipeV, 1F1B, zero bubble.",
  flags: {
    kind: { type: "choice", choices: scheduleKinds, default: "dualpipe", help: "Schedule." },
    ranks: { type: "whole", value: "N", min: 1, max: 1024, default: 8, help: "Pipeline ranks." },
    "micro-batches": {
      type: "whole",
      value: "M",
      min: 1,
      max: 65536,
      default: 20,
      help: "Micro-batches in all.",
    },
    forward: { type: "number", value: "T", min: 0, default: 1, help: "Time of a forward." },
    backward: { type: "number", value: "T", min: 0, default: 2, help: "Time of a backward." },
    weight: { type: "number", value: "T", min: 0, default: 1, help: "Time of its weight part." },
    overlapped: {
      type: "number",
      value: "T",
      min: 0,
      help: "Time of an overlapped pair.",
      defaultHelp: "forward plus backward",
    },
    activation: { type: "number", value: "X", min: 0, default: 1, help: "Memory of a chunk held." },
    "weight-stash": {
      type: "number",
      value: "X",
      min: 0,
      default: 0,
      help: "Memory of a weight part that waits.",
    },
    "memory-limit": {
      type: "number",
      value: "X",
      min: 0,
      help: "search: most memory of a rank.",
      defaultHelp: "what the schedule needs now",
    },
    steps: { type: "whole", value: "N", min: 0, default: 50_000, help: "search: changes to try." },
    seed: { type: "whole", value: "N", min: 0, default: 1, help: "search: of its random numbers." },
    send: { type: "number", value: "T", min: 0, default: 0, help: "Time of a message." },
    json: { type: "switch", help: "Print JSON." },
    svg: { type: "text", value: "FILE", help: "Write the Gantt chart (picture: print it else)." },
    trace: { type: "text", value: "FILE", help: "Write a trace; a unit of time is 1 ms in it." },
  },
  operands: actions.join("|"),
  examples: [
    "baleen dualpipe simulate --ranks 8 --micro-batches 20",
    "baleen dualpipe picture --svg dualpipe.svg",
    "baleen dualpipe simulate --trace dualpipe.json && baleen profile dualpipe.json",
    "baleen dualpipe schedule --kind dualpipev --ranks 4 --micro-batches 10 --json",
  ],
  async run({ flags, operands }) {
    const [action, ...more] = operands;
    if (!(actions as readonly string[]).includes(action) || more.length > 0) {
      throw new UsageError(`dualpipe: give one of ${actions.join(", ")}.`);
    }
    const start = makeSchedule(flags.kind, flags.ranks, flags["micro-batches"]);
    const { forward, backward, weight, send } = flags;
    const overlapped = flags.overlapped ?? forward + backward;
    const durations = { forward, backward, weight, overlapped, send };
    const memory = { activation: flags.activation, weightStash: flags["weight-stash"] };
    const limit = flags["memory-limit"];
    const search =
      action === "search"
        ? searchSchedule(start, durations, {
            ...memory,
            ...(limit !== undefined && { memoryLimit: limit }),
            steps: flags.steps,
            seed: flags.seed,
          })
        : undefined;
    const schedule = search?.schedule ?? start;
    if (action === "schedule") {
      const tuples = toTuples(schedule);
      console.log(flags.json ? JSON.stringify(tuples) : renderSteps(tuples));
      return;
    }
    const simulation = simulate(schedule, durations, memory);
    const picture = pictureSchedule(schedule, simulation, durations);
    if (flags.svg !== undefined) writeFileSync(flags.svg, picture);
    if (flags.trace !== undefined) {
      writeFileSync(flags.trace, [...writeTrace(traceSimulation(simulation))].join(""));
    }
    if (action === "picture") {
      console.log(flags.svg === undefined ? picture : `wrote ${flags.svg}`);
      return;
    }
    const formula = bubbleFormula(schedule, durations);
    if (search !== undefined) {
      const { improved, before, after } = search;
      if (flags.json)
        console.log(JSON.stringify({ improved, before, after, ranks: toTuples(schedule) }));
      else
        console.log(
          improved ? `found ${short(after)}, ${short(before)} before\n` : "found nothing shorter\n",
        );
    }
    if (flags.json && search === undefined) {
      console.log(JSON.stringify({ ...simulation, bubbleFormula: formula }));
    } else if (!flags.json) console.log(renderSimulation(schedule, simulation, formula));
  },
});

function renderSteps(tuples: ReturnType<typeof toTuples>): string {
  return tuples
    .map((steps, rank) => {
      const words = steps.map(([op, ...rest]) =>
        op === "comm" ? `[${rest.flat().join(" ")}]` : `${op}${rest.join(".")}`,
      );
      return `rank ${rank}: ${words.join(" ")}`;
    })
    .join("\n");
}

const short = (value: number): string => String(Number(value.toFixed(4)));

function renderSimulation(
  { kind, numRanks, numMicroBatches }: Schedule,
  { total, ranks }: Simulation,
  formula: number | undefined,
): string {
  const lines = [
    `${kind}, ${numRanks} ranks, ${numMicroBatches} micro-batches: ${short(total)} in all`,
    `bubble by the formula: ${formula === undefined ? "none known" : short(formula)}`,
    "",
    "rank      busy    bubble   in span  chunks held  weight parts waiting",
  ];
  ranks.forEach(({ busy, bubble, idle, peakActivations, peakWeightStash }, rank) => {
    const times = [busy, bubble, idle].map((time) => short(time).padStart(10)).join("");
    const counts = `${String(peakActivations).padStart(13)}${String(peakWeightStash).padStart(22)}`;
    lines.push(`${String(rank).padStart(4)}${times}${counts}`);
  });
  return lines.join("\n");
}
