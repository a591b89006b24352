/** @file The compact recorded form of schedules. */
import type { Schedule, Step, StepTuple } from "./types.ts";

/**
 * A schedule as recorded from the original: a list a rank of `["F", phase, chunk]`, `["B", ...]`,
 * `["Bi", ...]`, `["W"]`, `["FB", phase, chunk, phase, chunk]` (forward first) and
 * `["comm", ["sf0", "rb1"]]` (send or receive; activation `f` or gradient `b`; phase).
 */
export function toTuples(schedule: Schedule): StepTuple[][] {
  return schedule.ranks.map((steps) => steps.map(tupleOf));
}

function tupleOf(step: Step): StepTuple {
  switch (step.op) {
    case "comm":
      return [
        "comm",
        step.transfers.map(
          ({ direction, what, phase }) =>
            `${direction[0]}${what === "activation" ? "f" : "b"}${phase}`,
        ),
      ];
    case "FB": {
      const { forward, backward } = step;
      return ["FB", forward.phase, forward.chunk, backward.phase, backward.chunk];
    }
    case "W":
      return ["W"];
    default:
      return [step.op, step.phase, step.chunk];
  }
}
