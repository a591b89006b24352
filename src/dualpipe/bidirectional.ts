/**
 * @file DualPipe and DualPipeV. Both are one program. DualPipe sends micro-batches into the pipeline
 * from both ends; a rank is as far from the middle as its mirror image, and does the same with the two
 * directions swapped. DualPipeV is the half of it that is left when the mirror image is folded onto
 * it: the innermost rank hands its outgoing chunk to itself.
 *
 * Receives are queued before a computation, sends after one; all that is queued leaves as one batch
 * before the next computation.
 * Source of the order of steps: DeepSeek-V3 technical report, figure 5, and the behaviour of
 * github.com/deepseek-ai/DualPipe.
 */
import { checkWhole, refuse } from "./errors.ts";
import type { ChunkId, Schedule, Step, Transfer } from "./types.ts";

/** A schedule of DualPipe or DualPipeV. */
export interface BidirectionalOptions {
  /** Leaves out backward, for evaluation. */
  readonly forwardOnly?: boolean;
}

/**
 * DualPipe on `numRanks` (even) ranks; each direction gets half of the `numMicroBatches` (even, at
 * least twice the ranks). Phase 0 runs from rank 0 up, phase 1 from the last rank down.
 */
export function dualPipe(
  numRanks: number,
  numMicroBatches: number,
  options: BidirectionalOptions = {},
): Schedule {
  checkWhole("numRanks", numRanks, 2);
  checkWhole("numMicroBatches", numMicroBatches, 1);
  if (numRanks % 2 !== 0) throw refuse("numRanks", `is ${numRanks}`, "give an even number");
  if (numMicroBatches % 2 !== 0 || numMicroBatches < 2 * numRanks) {
    const advice = `give an even number of at least ${2 * numRanks}, twice the ranks`;
    throw refuse("numMicroBatches", `is ${numMicroBatches}`, advice);
  }
  const half = numRanks / 2;
  const chunks = numMicroBatches / 2;
  const ranks = Array.from({ length: numRanks }, (_, rank) => {
    const inward = Math.min(rank, numRanks - 1 - rank);
    const writer = new RankWriter(rank, numRanks, rank >= half, options.forwardOnly ?? false);
    return program(writer, half - 1 - inward, inward + 1, chunks - 2 * half + inward + 1);
  });
  const up = Array.from({ length: numRanks }, (_, rank) => ({ rank, phase: 0 }));
  const down = up.map(({ rank }) => ({ rank: numRanks - 1 - rank, phase: 1 }));
  return {
    kind: "dualpipe",
    numRanks,
    numMicroBatches,
    chunksPerRoute: chunks,
    routes: [up, down],
    ranks,
  };
}

/**
 * DualPipeV on `numRanks` ranks with two model chunks each: phase 0 runs up, phase 1 back down.
 * `numMicroBatches` is at least twice the ranks.
 */
export function dualPipeV(
  numRanks: number,
  numMicroBatches: number,
  options: BidirectionalOptions = {},
): Schedule {
  checkWhole("numRanks", numRanks, 1);
  checkWhole("numMicroBatches", numMicroBatches, 2 * numRanks);
  const ranks = Array.from({ length: numRanks }, (_, rank) => {
    const writer = new RankWriter(rank, numRanks, false, options.forwardOnly ?? false);
    const main = numMicroBatches - 2 * numRanks + rank + 1;
    return program(writer, numRanks - 1 - rank, rank + 1, main);
  });
  return {
    kind: "dualpipev",
    numRanks,
    numMicroBatches,
    chunksPerRoute: numMicroBatches,
    routes: [foldedRoute(numRanks)],
    ranks,
  };
}

/** Up through phase 0 and back down through phase 1. */
export function foldedRoute(numRanks: number): { rank: number; phase: number }[] {
  const up = Array.from({ length: numRanks }, (_, rank) => ({ rank, phase: 0 }));
  return [...up, ...up.map(({ rank }) => ({ rank, phase: 1 })).reverse()];
}

/**
 * The eight sections of a rank's program. Role 0 is the direction that reaches this rank first, role 1
 * the other. `outer` is the distance to the middle, `inner` the distance to the end plus one, `main`
 * the length of the main section.
 */
function program(w: RankWriter, outer: number, inner: number, main: number): Step[] {
  const innermost = outer === 0;
  for (let i = 0; i < 2 * outer; i++) w.forward(0);
  // Both directions forward. The innermost rank passes role 0 on at once, since its peer waits for it,
  // and holds the last message of role 1 back, until after the computation that follows.
  w.receive("activation", 0);
  for (let i = 0; i < inner; i++) {
    w.forward(0, { receive: false, send: innermost });
    w.receive("activation", 0);
    w.forward(1, { send: !innermost || i < inner - 1 });
    if (!innermost) w.send("activation", 0);
  }
  for (let i = 0; i < outer; i++) {
    w.backward(1, { split: true });
    w.receive("activation", 1);
    w.weight();
    w.forward(1, { receive: false });
  }
  for (let i = 0; i < main; i++) {
    if (i > 0) w.pair(0, 1);
    else if (!innermost) w.pair(0, 1, false);
    else {
      // Not overlapped: the backward need not wait for the forward, and the bubble is smaller.
      w.forward(0, { receive: false, send: false });
      w.send("activation", 1);
      w.backward(1, { send: false });
      w.send("activation", 0);
      w.send("gradient", 1);
    }
    w.pair(1, 0);
  }
  for (let i = 0; i < outer; i++) {
    w.backward(1);
    w.pair(1, 0);
  }
  // The second half of these leaves its weight parts to the end.
  for (let i = 0; i < 2 * inner; i++) w.backward(i % 2 === 0 ? 1 : 0, { split: i >= inner });
  for (let i = 0; i < outer; i++) {
    w.weight();
    w.backward(0, { split: true });
  }
  for (let i = 0; i < inner; i++) w.weight();
  w.flush();
  return w.steps;
}

/** Whether to queue the messages of a computation before and after it. */
interface Messages {
  readonly receive?: boolean;
  readonly send?: boolean;
}

/** Writes one rank's list. Roles become phases, chunks and messages are counted off. */
class RankWriter {
  readonly steps: Step[] = [];
  private readonly rank: number;
  private readonly numRanks: number;
  private readonly swapped: boolean;
  private readonly forwardOnly: boolean;
  private queued: Transfer[] = [];
  private readonly weights: ChunkId[] = [];
  private readonly counts = new Map<string, number>();

  constructor(rank: number, numRanks: number, swapped: boolean, forwardOnly: boolean) {
    this.rank = rank;
    this.numRanks = numRanks;
    this.swapped = swapped;
    this.forwardOnly = forwardOnly;
  }

  receive(what: Transfer["what"], role: number): void {
    this.queue("receive", what, role);
  }

  send(what: Transfer["what"], role: number): void {
    this.queue("send", what, role);
  }

  forward(role: number, { receive = true, send = true }: Messages = {}): void {
    if (receive) this.receive("activation", role);
    this.flush();
    this.steps.push({ op: "F", ...this.next("F", role) });
    if (send) this.send("activation", role);
  }

  backward(
    role: number,
    { receive = true, send = true, split = false }: Messages & { split?: boolean } = {},
  ): void {
    if (receive) this.receive("gradient", role);
    this.flush();
    if (!this.forwardOnly) {
      const id = this.next("B", role);
      this.steps.push({ op: split ? "Bi" : "B", ...id });
      if (split) this.weights.push(id);
    }
    if (send) this.send("gradient", role);
  }

  /** A forward of one role over a backward of the other. */
  pair(forward: number, backward: number, receive = true): void {
    if (receive) this.receive("activation", forward);
    this.receive("gradient", backward);
    this.flush();
    if (this.forwardOnly) this.steps.push({ op: "F", ...this.next("F", forward) });
    else {
      const ids = { forward: this.next("F", forward), backward: this.next("B", backward) };
      this.steps.push({ op: "FB", ...ids });
    }
    this.send("activation", forward);
    this.send("gradient", backward);
  }

  /** The oldest weight part that waits. */
  weight(): void {
    if (this.forwardOnly) return;
    this.flush();
    const id = this.weights.shift();
    if (id !== undefined) this.steps.push({ op: "W", ...id });
  }

  flush(): void {
    if (this.queued.length === 0) return;
    this.steps.push({ op: "comm", transfers: this.queued });
    this.queued = [];
  }

  private queue(direction: Transfer["direction"], what: Transfer["what"], role: number): void {
    if (this.forwardOnly && what === "gradient") return;
    const phase = this.phaseOf(role);
    // Phase 0 runs up, phase 1 down; gradients run against activations, and receiving looks back.
    const up = ((phase === 0) === (what === "activation")) === (direction === "send");
    const peer = this.rank + (up ? 1 : -1);
    if (peer < 0 || peer >= this.numRanks) return;
    const { chunk } = this.next(`${direction} ${what}`, role);
    this.queued.push({ direction, what, phase, chunk, peer });
  }

  private phaseOf(role: number): number {
    return this.swapped ? 1 - role : role;
  }

  private next(counter: string, role: number): ChunkId {
    const phase = this.phaseOf(role);
    const key = `${counter} ${phase}`;
    const chunk = this.counts.get(key) ?? 0;
    this.counts.set(key, chunk + 1);
    return { phase, chunk };
  }
}
