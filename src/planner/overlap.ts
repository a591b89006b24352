/**
 * @file Two micro-batches that hide each other's communication: one layer's operations on a compute and
 * a communication lane, repeated until the pattern is steady. Source of both orders: the figures of
 * the Day 6 article and of the README of deepseek-ai/profile-data.
 */

/** Which lane an operation occupies. */
export type Lane = "compute" | "communication";

/** An operation of one micro-batch in one layer. */
export interface LaneOperation {
  readonly name: string;
  readonly lane: Lane;
  readonly microBatch: 0 | 1;
  readonly us: number;
  /** Operations (by index in the period) that must have ended. */
  readonly after: readonly number[];
  /** The same, of the period before. */
  readonly afterPrevious?: readonly number[];
}

/** An operation with its times, in microseconds from the start of the layer. */
export interface TimedOperation {
  readonly name: string;
  readonly lane: Lane;
  readonly microBatch: 0 | 1;
  readonly startUs: number;
  readonly endUs: number;
}

/** One layer in the steady state, both micro-batches. */
export interface LayerTimeline {
  /** Time from one layer to the next. */
  readonly periodUs: number;
  readonly operations: readonly TimedOperation[];
  readonly computeUs: number;
  readonly communicationUs: number;
  /** Time in which the compute lane waits. */
  readonly exposedUs: number;
}

const periods = 6;

/** The steady state of `operations`, which each lane runs in the order given. */
export function steadyState(operations: readonly LaneOperation[]): LayerTimeline {
  let previous: number[] = operations.map(() => 0);
  let start = 0;
  let before = 0;
  const lanes: Record<Lane, number> = { compute: 0, communication: 0 };
  let timed: TimedOperation[] = [];
  for (let period = 0; period < periods; period++) {
    before = start;
    const ends: number[] = [];
    timed = [];
    for (const { name, lane, microBatch, us, after, afterPrevious = [] } of operations) {
      let begin = lanes[lane];
      for (const index of after) begin = Math.max(begin, ends[index]);
      for (const index of afterPrevious) begin = Math.max(begin, previous[index]);
      if (ends.length === 0) start = begin;
      ends.push(begin + us);
      lanes[lane] = begin + us;
      timed.push({ name, lane, microBatch, startUs: begin, endUs: begin + us });
    }
    previous = ends;
  }
  const busy = (lane: Lane) =>
    sumOf(operations.filter((op) => op.lane === lane).map((op) => op.us));
  const periodUs = start - before;
  return {
    periodUs,
    operations: timed.map((op) => ({
      ...op,
      startUs: op.startUs - start,
      endUs: op.endUs - start,
    })),
    computeUs: busy("compute"),
    communicationUs: busy("communication"),
    exposedUs: Math.max(0, periodUs - busy("compute")),
  };
}

/** The first micro-batch's operations one after the other: a whole batch that nothing overlaps. */
export function oneAfterTheOther(operations: readonly LaneOperation[]): LayerTimeline {
  let now = 0;
  const order = operations.filter((op) => op.microBatch === 0);
  const timed = order.map(({ name, lane, microBatch, us }) => {
    const startUs = now;
    now += us;
    return { name, lane, microBatch, startUs, endUs: now };
  });
  const compute = sumOf(order.filter((op) => op.lane === "compute").map((op) => op.us));
  return {
    periodUs: now,
    operations: timed,
    computeUs: compute,
    communicationUs: now - compute,
    exposedUs: now - compute,
  };
}

/** Times of one micro-batch's four operations in prefill. */
export interface PrefillTimes {
  readonly attention: number;
  readonly dispatch: number;
  readonly mlp: number;
  readonly combine: number;
}

/** Prefill: attention and MLP of one micro-batch beside dispatch and combine of the other. */
export function prefillPipeline(times: PrefillTimes): LaneOperation[] {
  const { attention, dispatch, mlp, combine } = times;
  const compute = "compute";
  const communication = "communication";
  return [
    op("attention", compute, 0, attention, [], [6]),
    op("dispatch", communication, 0, dispatch, [0]),
    op("attention", compute, 1, attention, [], [7]),
    op("dispatch", communication, 1, dispatch, [2]),
    op("mlp", compute, 0, mlp, [1]),
    op("mlp", compute, 1, mlp, [3]),
    op("combine", communication, 0, combine, [4]),
    op("combine", communication, 1, combine, [5]),
  ];
}

/** Times of one micro-batch's operations in decode: five stages. */
export interface DecodeTimes {
  /** Projections before attention's core. */
  readonly attention0: number;
  /** Core, output projection, gate. */
  readonly attention1: number;
  readonly shared: number;
  readonly dispatch: number;
  readonly mlp: number;
  readonly combine: number;
}

/**
 * Decode: dispatch beside the shared expert and the other's attention-0, then the experts, then
 * combine beside the other's attention-1.
 */
export function decodePipeline(times: DecodeTimes): LaneOperation[] {
  const { attention0, attention1, shared, dispatch, mlp, combine } = times;
  const compute = "compute";
  const communication = "communication";
  return [
    op("shared", compute, 0, shared, [], [11]),
    op("dispatch", communication, 0, dispatch, [], [11]),
    op("attention-0", compute, 1, attention0, [], [10]),
    op("mlp", compute, 0, mlp, [1]),
    op("combine", communication, 0, combine, [3]),
    op("attention-1", compute, 1, attention1, [2]),
    op("shared", compute, 1, shared, [5]),
    op("dispatch", communication, 1, dispatch, [5]),
    op("attention-0", compute, 0, attention0, [4]),
    op("mlp", compute, 1, mlp, [7]),
    op("combine", communication, 1, combine, [9]),
    op("attention-1", compute, 0, attention1, [8]),
  ];
}

function op(
  name: string,
  lane: Lane,
  microBatch: 0 | 1,
  us: number,
  after: readonly number[],
  afterPrevious: readonly number[] = [],
): LaneOperation {
  return { name, lane, microBatch, us, after, afterPrevious };
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
