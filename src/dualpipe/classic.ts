/**
 * @file The older schedules. 1F1B: Narayanan et al., "PipeDream" (2019), in its synchronous form.
 * Interleaved 1F1B: Narayanan et al., "Efficient large-scale language model training" (2021).
 * Zero bubble (ZB-H1, ZB-H2, ZB-V): Qi et al., "Zero bubble pipeline parallelism" (2024) and "Pipeline
 * parallelism with controllable memory" (2024).
 */
import { foldedRoute } from "./bidirectional.ts";
import { checkWhole, refuse } from "./errors.ts";
import { Routes } from "./graph.ts";
import { withTransfers } from "./transfers.ts";
import type { ComputeOp, Place, Schedule, ScheduleKind, SingleOp } from "./types.ts";

/** One forward, one backward: a rank holds at most as many micro-batches as ranks follow it. */
export function oneForwardOneBackward(numRanks: number, numMicroBatches: number): Schedule {
  checkWhole("numRanks", numRanks, 1);
  checkWhole("numMicroBatches", numMicroBatches, 1);
  const route = straightRoute(numRanks, 1);
  const ranks = Array.from({ length: numRanks }, (_, rank) =>
    alternate(
      Array.from({ length: numMicroBatches }, (_, chunk) => ({ phase: 0, chunk })),
      Array.from({ length: numMicroBatches }, (_, chunk) => ({ phase: 0, chunk })),
      numRanks - 1 - rank,
    ),
  );
  return finished("1f1b", numRanks, numMicroBatches, route, ranks);
}

/** 1F1B over `numChunks` model chunks a rank; micro-batches in a multiple of the ranks. */
export function interleaved(
  numRanks: number,
  numMicroBatches: number,
  numChunks: number = 2,
): Schedule {
  checkWhole("numRanks", numRanks, 1);
  checkWhole("numMicroBatches", numMicroBatches, 1);
  checkWhole("numChunks", numChunks, 1);
  if (numMicroBatches % numRanks !== 0) {
    const advice = `give a multiple of numRanks (${numRanks})`;
    throw refuse("numMicroBatches", `is ${numMicroBatches}`, advice);
  }
  const total = numMicroBatches * numChunks;
  const round = numRanks * numChunks;
  const at = (k: number, back: boolean) => {
    const phase = Math.floor((k % round) / numRanks);
    const chunk = Math.floor(k / round) * numRanks + (k % numRanks);
    return { phase: back ? numChunks - 1 - phase : phase, chunk };
  };
  const ranks = Array.from({ length: numRanks }, (_, rank) =>
    alternate(
      Array.from({ length: total }, (_, k) => at(k, false)),
      Array.from({ length: total }, (_, k) => at(k, true)),
      2 * (numRanks - 1 - rank) + (numChunks - 1) * numRanks,
    ),
  );
  const route = straightRoute(numRanks, numChunks);
  return finished("interleaved", numRanks, numMicroBatches, route, ranks);
}

/**
 * Zero bubble with 1F1B's memory. Forwards and backwards for inputs alternate as in 1F1B, each followed
 * by its weight part; rank r leaves out the last r of these before the pipeline drains, so that
 * backwards for inputs come twice as fast there, and does them at the end.
 */
export function zeroBubbleH1(numRanks: number, numMicroBatches: number): Schedule {
  checkWhole("numRanks", numRanks, 1);
  checkWhole("numMicroBatches", numMicroBatches, 1);
  const ranks = Array.from({ length: numRanks }, (_, rank) => {
    const order: SingleOp[] = [];
    const done = { F: 0, Bi: 0, W: 0 };
    const add = (op: "F" | "Bi" | "W"): void => {
      if (done[op] < numMicroBatches) order.push({ op, phase: 0, chunk: done[op]++ });
    };
    const lead = Math.min(numRanks - rank, numMicroBatches);
    const full = Math.max(0, numMicroBatches - numRanks);
    for (let i = 0; i < lead; i++) add("F");
    for (let i = 0; i < numMicroBatches; i++) {
      const draining = i >= full && done.F < numMicroBatches;
      add("Bi");
      if (!draining) add("W");
      add("F");
    }
    while (done.W < numMicroBatches) add("W");
    return order;
  });
  const route = straightRoute(numRanks, 1);
  return finished("zb-h1", numRanks, numMicroBatches, route, ranks);
}

/** Zero bubble with nearly twice 1F1B's memory: forwards fill the bubble at the start, too. */
export function zeroBubbleH2(numRanks: number, numMicroBatches: number): Schedule {
  const limit = 2 * numRanks - 1;
  return zeroBubble("zb-h2", numRanks, numMicroBatches, straightRoute(numRanks, 1), limit);
}

/** Zero bubble with two half-size model chunks a rank, there and back, in 1F1B's memory. */
export function zeroBubbleV(numRanks: number, numMicroBatches: number): Schedule {
  return zeroBubble("zb-v", numRanks, numMicroBatches, foldedRoute(numRanks), 2 * numRanks);
}

function straightRoute(numRanks: number, numPhases: number): Place[] {
  return Array.from({ length: numRanks * numPhases }, (_, i) => ({
    rank: i % numRanks,
    phase: Math.floor(i / numRanks),
  }));
}

function finished(
  kind: ScheduleKind,
  numRanks: number,
  numMicroBatches: number,
  route: Place[],
  ranks: ComputeOp[][],
): Schedule {
  const chunksPerRoute = numMicroBatches;
  return withTransfers({ kind, numRanks, numMicroBatches, chunksPerRoute, routes: [route], ranks });
}

/** `warmup` forwards, then forward and backward in turn, then the backwards that are left. */
function alternate(
  forwards: readonly { phase: number; chunk: number }[],
  backwards: readonly { phase: number; chunk: number }[],
  warmup: number,
): SingleOp[] {
  const order: SingleOp[] = [];
  const lead = Math.min(warmup, forwards.length);
  for (let i = 0; i < forwards.length + lead; i++) {
    if (i < forwards.length) order.push({ op: "F", ...forwards[i] });
    if (i >= lead) order.push({ op: "B", ...backwards[i - lead] });
  }
  return order;
}

/**
 * Lists by playing the pipeline in unit time: a rank takes the backward for inputs that is ready, the
 * one nearest to the end of the route first; else a forward, as long as it holds fewer than `limit`
 * chunks; else the oldest weight part.
 */
function zeroBubble(
  kind: ScheduleKind,
  numRanks: number,
  numMicroBatches: number,
  route: Place[],
  limit: number,
): Schedule {
  checkWhole("numRanks", numRanks, 1);
  checkWhole("numMicroBatches", numMicroBatches, 1);
  const routes = new Routes({ routes: [route], chunksPerRoute: numMicroBatches });
  const made = new Set<number>();
  const players = Array.from({ length: numRanks }, (_, rank) => {
    const phases = route.filter((place) => place.rank === rank).map(({ phase }) => phase);
    return { rank, phases, forward: [0, 0], backward: [0, 0], held: 0, order: [] as SingleOp[] };
  });
  const weights = players.map((): { phase: number; chunk: number }[] => []);
  const wanted = 3 * route.length * numMicroBatches;
  for (let done = 0; done < wanted; ) {
    const fresh: number[] = [];
    for (const player of players) {
      const op = chooseOp(player, routes, made, weights[player.rank], limit, numMicroBatches);
      if (op === undefined) continue;
      player.order.push(op);
      done++;
      if (op.op === "W") player.held--;
      if (op.op === "F") player.held++;
      if (op.op !== "W") {
        fresh.push(
          routes.resultId({ rank: player.rank, phase: op.phase }, op.chunk, op.op === "Bi"),
        );
      }
    }
    for (const id of fresh) made.add(id);
  }
  return finished(
    kind,
    numRanks,
    numMicroBatches,
    route,
    players.map((player) => player.order),
  );
}

interface Player {
  readonly rank: number;
  readonly phases: readonly number[];
  readonly forward: number[];
  readonly backward: number[];
  held: number;
}

function chooseOp(
  player: Player,
  routes: Routes,
  made: ReadonlySet<number>,
  weights: { phase: number; chunk: number }[],
  limit: number,
  chunks: number,
): SingleOp | undefined {
  const ready = (op: "F" | "Bi", phase: number, chunk: number): boolean =>
    chunk < chunks &&
    routes.needs(player.rank, { op, phase, chunk }).every(({ id }) => made.has(id));
  for (const phase of player.phases.toReversed()) {
    const chunk = player.backward[phase];
    if (!ready("Bi", phase, chunk)) continue;
    player.backward[phase]++;
    weights.push({ phase, chunk });
    return { op: "Bi", phase, chunk };
  }
  for (const phase of player.phases.toReversed()) {
    const chunk = player.forward[phase];
    if (player.held >= limit || !ready("F", phase, chunk)) continue;
    player.forward[phase]++;
    return { op: "F", phase, chunk };
  }
  const oldest = weights.shift();
  return oldest && { op: "W", ...oldest };
}
