/**
 * @file Messages for any order of computations, such that ranks which wait for each other in batches
 * never wait for ever.
 *
 * Take the timeline in which only data dependences count, and give each message a moment in it: not
 * before its result is made, not after its receiver's use of it starts. Both sides put the message in
 * their batch before their first computation that starts at that moment or later. Then a batch is
 * posted when computations are done that start before its messages' moments, and a computation waits
 * for messages whose moments are not after its start. Time only grows along these waits, so they have
 * no cycle, whatever the real durations are. Of the moments that are possible, the one is taken at
 * which the two sides keep each other waiting least.
 */
import { partsOf, Routes } from "./graph.ts";
import { simulate, type TimelineEvent } from "./simulate.ts";
import type { ComputeOp, Durations, Place, Schedule, Step, Transfer } from "./types.ts";

/** Times that order the messages unless others are given. */
const usual: Durations = { forward: 1, backward: 2, weight: 1 };

/** A message and the two places it connects. */
interface Message {
  readonly what: Transfer["what"];
  readonly chunk: number;
  readonly from: Place;
  readonly to: Place;
  /** When its result is made. */
  readonly made: number;
  /** When the receiver starts to use it. */
  readonly used: number;
}

/** The schedule with its ranks' computations as they stand and all batches of messages made anew. */
export function withTransfers(schedule: Schedule, durations: Durations = usual): Schedule {
  const orders = schedule.ranks.map((steps) => steps.filter((step) => step.op !== "comm"));
  const timeline = simulate({ ...schedule, ranks: orders }, durations).ranks.map(
    ({ events }) => events,
  );
  const batches = orders.map((order) => order.map((): Transfer[] => []).concat([[]]));
  const timed = messagesOf(schedule, timeline).map((message) => {
    const { from, to } = message;
    const moment = momentOf(message, timeline[from.rank], timeline[to.rank], durations.send ?? 0);
    return { ...message, moment };
  });
  // The two ends of a channel must agree on the order, in one batch and over several.
  timed.sort((a, b) => a.moment - b.moment || a.made - b.made);
  for (const { what, chunk, from, to, moment } of timed) {
    const send = { direction: "send", what, phase: from.phase, chunk, peer: to.rank } as const;
    batches[from.rank][slotAt(timeline[from.rank], moment)].push(send);
    const receive = {
      direction: "receive",
      what,
      phase: to.phase,
      chunk,
      peer: from.rank,
    } as const;
    batches[to.rank][slotAt(timeline[to.rank], moment)].push(receive);
  }
  const ranks = orders.map((order, rank) =>
    batches[rank].flatMap((transfers, i): Step[] => {
      const own: ComputeOp[] = i < order.length ? [order[i]] : [];
      return transfers.length > 0 ? [{ op: "comm", transfers }, ...own] : own;
    }),
  );
  return { ...schedule, ranks };
}

function messagesOf(
  schedule: Schedule,
  timeline: readonly (readonly TimelineEvent[])[],
): Message[] {
  const routes = new Routes(schedule);
  const used = new Map<number, number>();
  timeline.forEach((events, rank) => {
    for (const { op, start } of events) {
      for (const part of partsOf(op)) {
        for (const { id, from } of routes.needs(rank, part)) {
          if (from.rank !== rank) used.set(id, start);
        }
      }
    }
  });
  return timeline.flatMap((events, rank) =>
    events.flatMap(({ op, end }) =>
      partsOf(op).flatMap(({ op: kind, phase, chunk }): Message[] => {
        const from = { rank, phase };
        const gradient = kind !== "F";
        const to = gradient ? routes.previous(from) : routes.next(from);
        if (kind === "W" || to === undefined || to.rank === rank) return [];
        const use = used.get(routes.resultId(from, chunk, gradient)) ?? end;
        const what = gradient ? "gradient" : "activation";
        return [{ what, chunk, from, to, made: end, used: use }];
      }),
    ),
  );
}

/** The index of the first computation that starts at `moment` or later. */
function slotAt(events: readonly TimelineEvent[], moment: number): number {
  let [low, high] = [0, events.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (events[middle].start < moment) low = middle + 1;
    else high = middle;
  }
  return low;
}

function momentOf(
  { made, used }: Message,
  sender: readonly TimelineEvent[],
  receiver: readonly TimelineEvent[],
  sendTime: number,
): number {
  const candidates = [made];
  for (const events of [sender, receiver]) {
    for (let i = slotAt(events, made); i < events.length && events[i].start <= used; i++) {
      candidates.push(events[i].start);
    }
  }
  let best = made;
  let least = Number.POSITIVE_INFINITY;
  for (const moment of candidates.sort((a, b) => a - b)) {
    const slots = [sender, receiver].map((events) => ({ events, slot: slotAt(events, moment) }));
    const posted = slots.map(({ events, slot }) => (slot === 0 ? 0 : events[slot - 1].end));
    const done = Math.max(made, ...posted) + sendTime;
    const wait = slots.reduce((sum, { events, slot }) => {
      return slot < events.length ? sum + Math.max(0, done - events[slot].start) : sum;
    }, 0);
    if (wait >= least - 1e-12) continue;
    [best, least] = [moment, wait];
  }
  return best;
}
