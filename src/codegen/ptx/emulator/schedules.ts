/** @file The schedules that kernels are tested under. */
import type { Schedule } from "./machine.ts";

/** A few schedules that differ as much as possible; `seeds` more at random. */
export function testSchedules(seeds: number = 2, first: number = 1): Schedule[] {
  const fixed: Schedule[] = [
    { warps: "round-robin", async: "late", seed: first },
    { warps: "reversed", async: "early", seed: first },
    { warps: "run-to-block", async: "random", seed: first },
    { warps: "priority", async: "late", seed: first },
  ];
  const random = Array.from({ length: seeds }, (_, i): Schedule => {
    const asyncs = ["random", "early", "late"] as const;
    const warps = i % 2 === 0 ? "random" : "priority";
    return { warps, async: asyncs[i % 3], seed: first + 1 + i };
  });
  return [...fixed, ...random];
}
