/**
 * @file Pipeline schedules as data. A rank holds one model chunk a phase; a route says in which order
 * the chunks of the pipeline are passed. A micro-batch of a route is a chunk, numbered from 0.
 */

/** The schedules that this room makes. */
export type ScheduleKind =
  | "dualpipe"
  | "dualpipev"
  | "1f1b"
  | "interleaved"
  | "zb-h1"
  | "zb-h2"
  | "zb-v";

/** A micro-batch at a model chunk of the rank whose list this stands in. */
export interface ChunkId {
  readonly phase: number;
  readonly chunk: number;
}

/**
 * Work of one chunk: F forward; B whole backward; Bi backward for inputs only, whose weight part W
 * comes later, in the order in which the Bi came.
 */
export interface SingleOp extends ChunkId {
  readonly op: "F" | "B" | "Bi" | "W";
}

/** A forward and a whole backward that run at once, one's computation over the other's messages. */
export interface PairOp {
  readonly op: "FB";
  readonly forward: ChunkId;
  readonly backward: ChunkId;
}

/** A unit of computation. */
export type ComputeOp = SingleOp | PairOp;

/** One message of activations or gradients from or to a neighbour. */
export interface Transfer extends ChunkId {
  readonly direction: "send" | "receive";
  readonly what: "activation" | "gradient";
  /** The other rank. */
  readonly peer: number;
}

/** Messages that are issued together; the rank goes on when all of them are done. */
export interface CommOp {
  readonly op: "comm";
  readonly transfers: readonly Transfer[];
}

/** One entry of a rank's list. */
export type Step = ComputeOp | CommOp;

/** A place of a route: which rank, and which of its model chunks. */
export interface Place {
  readonly rank: number;
  readonly phase: number;
}

/** What each rank does, in order. */
export interface Schedule {
  readonly kind: ScheduleKind;
  readonly numRanks: number;
  /** Micro-batches over all routes. */
  readonly numMicroBatches: number;
  /** Micro-batches of each route. */
  readonly chunksPerRoute: number;
  /** The ways through the model chunks; backward goes them in reverse. */
  readonly routes: readonly (readonly Place[])[];
  /** `[numRanks]`: each rank's steps. */
  readonly ranks: readonly (readonly Step[])[];
}

/** The recorded form: `["F", phase, chunk]`, `["FB", ...]`, `["W"]`, `["comm", ["sf0", "rb1"]]`. */
export type StepTuple =
  | readonly ["F" | "B" | "Bi", number, number]
  | readonly ["W"]
  | readonly ["FB", number, number, number, number]
  | readonly ["comm", readonly string[]];

/** How long things take, in any one unit; of one chunk on one rank. */
export interface Durations {
  /** Forward. */
  readonly forward: number;
  /** Whole backward, its weight part included. */
  readonly backward: number;
  /** The weight part of a backward. */
  readonly weight: number;
  /** An overlapped forward and backward; default: their sum. */
  readonly overlapped?: number;
  /** From the end of a computation until its result is at the neighbour; default 0. */
  readonly send?: number;
}
