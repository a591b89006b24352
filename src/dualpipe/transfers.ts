/**
 * @file Messages for any order of computations, such that ranks which wait for each other in batches
 * never wait for ever.
 *
 * Take the timeline in which only data dependences count. A result is sent in the batch before the
 * sender's next computation, and received in the batch before the receiver's first computation that
 * starts when the result is made or later. Then a computation waits only for computations that start
 * before it in that timeline: for its own rank's last one; for the sender's, which has ended; and, as
 * a sender, for the receiver's last one before the batch, which starts before the result is made. So
 * the waits have no cycle, whatever the real durations are.
 */
import { partsOf, Routes } from "./graph.ts";
import { simulate } from "./simulate.ts";
import type { ComputeOp, Durations, Schedule, Step, Transfer } from "./types.ts";

/** Times that order the messages unless others are given. */
const usual: Durations = { forward: 1, backward: 2, weight: 1 };

/** The schedule with its ranks' computations as they stand and all batches of messages made anew. */
export function withTransfers(schedule: Schedule, durations: Durations = usual): Schedule {
  const orders = schedule.ranks.map((steps) => steps.filter((step) => step.op !== "comm"));
  const bare = { ...schedule, ranks: orders };
  const { ranks } = simulate(bare, durations);
  const routes = new Routes(schedule);
  interface Message extends Transfer {
    readonly made: number;
  }
  const batches = orders.map((order) => order.map((): Message[] => []).concat([[]]));
  ranks.forEach(({ events }, rank) => {
    events.forEach(({ op, end }, i) => {
      for (const { op: kind, phase, chunk } of partsOf(op)) {
        if (kind === "W") continue;
        const what = kind === "F" ? "activation" : "gradient";
        const here = { rank, phase };
        const to = kind === "F" ? routes.next(here) : routes.previous(here);
        if (to === undefined || to.rank === rank) continue;
        const send = { direction: "send", what, phase, chunk, peer: to.rank, made: end } as const;
        batches[rank][i + 1].push(send);
        const slot = ranks[to.rank].events.findIndex(({ start }) => start >= end);
        const receive = { direction: "receive", what, phase: to.phase, chunk, peer: rank } as const;
        batches[to.rank][slot].push({ ...receive, made: end });
      }
    });
  });
  const steps = orders.map((order, rank) =>
    batches[rank].flatMap((batch, i): Step[] => {
      const transfers = batch
        .toSorted((a, b) => a.made - b.made)
        .map(({ made: _, ...transfer }): Transfer => transfer);
      const own: ComputeOp[] = i < order.length ? [order[i]] : [];
      return transfers.length > 0 ? [{ op: "comm", transfers }, ...own] : own;
    }),
  );
  return { ...schedule, ranks: steps };
}
