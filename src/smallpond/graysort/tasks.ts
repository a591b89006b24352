/**
 * @file The two kinds of task: sort records that fit in memory, and scatter records to ranges of keys.
 * A task reads segments and writes one new file; it runs in this process or in another.
 */
import { unlink } from "node:fs/promises";
import { assert, ceilDiv } from "../../base/index.ts";
import { BlockWriter, blockBytes, bytesOf, readBlocks, type Segment } from "./blocks.ts";
import type { Buckets, RecordKernels } from "./kernels.ts";
import { recordBytes } from "./record.ts";
import { samplePrefixes, splittersOf } from "./splitters.ts";

/** Sorts `inputs` into the new file `output`. */
interface SortTask {
  readonly kind: "sort";
  readonly inputs: readonly Segment[];
  readonly output: string;
  /** Bytes of records that the task may hold at a time. */
  readonly memoryBytes: number;
}

/** Writes the records of `inputs` to the new file `output`, range after range. */
interface ScatterTask {
  readonly kind: "scatter";
  readonly inputs: readonly Segment[];
  readonly output: string;
  readonly memoryBytes: number;
  /** Cuts between ranges, in decimal digits, since messages between processes are JSON. */
  readonly splitters: readonly string[];
}

/** A piece of work. */
export type Task = SortTask | ScatterTask;

/** What a task leaves: the file, as segments: one per range, or one in all. */
export interface TaskResult {
  readonly segments: readonly Segment[];
}

/** Records in a bucket that its sort keeps in the cache: 1 MB. */
const bucketRecords = 10_000;
const bucketsMax = 1024;

/** Runs `task`; a failure leaves no file behind. */
export async function runTask(
  kernels: RecordKernels,
  task: Task,
  signal?: AbortSignal,
): Promise<TaskResult> {
  const writer = await BlockWriter.open(task.output);
  try {
    const segments =
      task.kind === "scatter"
        ? await scatter(kernels, task, writer, signal)
        : await sortAll(kernels, task, writer, signal);
    await writer.finish();
    return { segments };
  } catch (error) {
    await writer.abandon();
    await unlink(task.output).catch(() => {});
    throw error;
  }
}

/** What the steps of a sort share. */
interface Sort {
  readonly kernels: RecordKernels;
  readonly memoryBytes: number;
  readonly writer: BlockWriter;
  readonly signal: AbortSignal | undefined;
}

async function sortAll(
  kernels: RecordKernels,
  task: SortTask,
  writer: BlockWriter,
  signal?: AbortSignal,
): Promise<Segment[]> {
  await sortSegments({ kernels, memoryBytes: task.memoryBytes, writer, signal }, task.inputs, 0);
  return [{ path: writer.path, offset: 0, bytes: writer.bytes }];
}

/** Appends `inputs`, sorted; what does not fit in memory is scattered first, `depth` times so far. */
async function sortSegments(sort: Sort, inputs: readonly Segment[], depth: number): Promise<void> {
  const { kernels, writer, signal } = sort;
  const bytes = bytesOf(inputs);
  if (bytes === 0) return;
  const sample = await samplePrefixes(inputs);
  if (bytes > sort.memoryBytes) {
    await sortInRounds(sort, inputs, sample, depth);
    return;
  }
  const count = bytes / recordBytes;
  const wanted = Math.min(bucketsMax, Math.max(2, ceilDiv(count, bucketRecords)));
  const buckets = kernels.buckets(count, splittersOf(sample, powerOfTwoFrom(wanted)));
  try {
    for await (const block of readBlocks(inputs, signal)) buckets.add(block);
    for (let bucket = 0; bucket < buckets.count; bucket++) {
      signal?.throwIfAborted();
      await writeSorted(buckets, bucket, writer);
    }
    await writer.settle();
  } finally {
    buckets.close();
  }
}

function powerOfTwoFrom(count: number): number {
  return 2 ** Math.ceil(Math.log2(count));
}

/** Buckets are sorted one by one, and leave in blocks that may join several of them. */
async function writeSorted(buckets: Buckets, bucket: number, writer: BlockWriter): Promise<void> {
  buckets.sort(bucket);
  const count = buckets.sizeOf(bucket);
  const blockRecords = blockBytes / recordBytes;
  for (let first = 0; first < count; first += blockRecords) {
    const records = Math.min(blockRecords, count - first);
    await writer.write(records * recordBytes, (buffer) => buckets.copy(first, buffer));
  }
}

async function scatter(
  kernels: RecordKernels,
  task: ScatterTask,
  writer: BlockWriter,
  signal?: AbortSignal,
): Promise<Segment[]> {
  const bytes = bytesOf(task.inputs);
  assert(
    bytes <= task.memoryBytes,
    () => `bytes of a split: got ${bytes}, wanted at most ${task.memoryBytes}`,
  );
  const splitters = BigUint64Array.from(task.splitters.map(BigInt));
  return scatterTo(writer, kernels, task.inputs, splitters, signal);
}

/** Appends the records of `inputs` to `writer`, range after range; a segment for each range. */
async function scatterTo(
  writer: BlockWriter,
  kernels: RecordKernels,
  inputs: readonly Segment[],
  splitters: BigUint64Array,
  signal: AbortSignal | undefined,
): Promise<Segment[]> {
  const buckets = kernels.buckets(bytesOf(inputs) / recordBytes, splitters);
  try {
    for await (const block of readBlocks(inputs, signal)) buckets.add(block);
    const segments: Segment[] = [];
    for (let range = 0; range < buckets.count; range++) {
      const offset = writer.bytes;
      await writer.writeAll(buckets.pieces(range));
      segments.push({ path: writer.path, offset, bytes: writer.bytes - offset });
    }
    await writer.settle();
    return segments;
  } finally {
    buckets.close();
  }
}

/** Ranges of a scatter inside a task: from four on, one of them holds a single prefix if any must. */
const innerRangesMin = 4;

/**
 * Sorts more than fits, which a range is whose sample promised less or whose keys repeat: scatters
 * once more and sorts range by range. Records that all share one prefix cannot be cut any further;
 * they are sorted by the rest of the key.
 */
async function sortInRounds(
  sort: Sort,
  inputs: readonly Segment[],
  sample: BigUint64Array,
  depth: number,
): Promise<void> {
  const { kernels, memoryBytes, signal } = sort;
  const wanted = ceilDiv(2 * bytesOf(inputs), memoryBytes);
  const splitters = splittersOf(sample, powerOfTwoFrom(Math.max(innerRangesMin, wanted)));
  const path = `${sort.writer.path}.${depth}`;
  const spill = await BlockWriter.open(path);
  const ranges: Segment[][] = Array.from({ length: splitters.length + 1 }, () => []);
  try {
    for (const split of splitsOf(inputs, memoryBytes)) {
      const pieces = await scatterTo(spill, kernels, split, splitters, signal);
      for (const [range, piece] of pieces.entries()) ranges[range].push(piece);
    }
    for (const range of ranges) {
      const isWhole = bytesOf(range) === bytesOf(inputs);
      if (isWhole) await sortByRest(sort, range);
      else await sortSegments(sort, range, depth + 1);
    }
  } finally {
    await spill.abandon();
    await unlink(path).catch(() => {});
  }
}

/** Cuts `segments` into splits of at most `bytesMax`, whole records each. */
export function splitsOf(segments: readonly Segment[], bytesMax: number): Segment[][] {
  const limit = Math.max(1, Math.floor(bytesMax / recordBytes)) * recordBytes;
  const splits: Segment[][] = [];
  let room = 0;
  for (const { path, offset, bytes } of segments) {
    for (let at = 0; at < bytes; ) {
      if (room === 0) {
        splits.push([]);
        room = limit;
      }
      const size = Math.min(room, bytes - at);
      splits[splits.length - 1].push({ path, offset: offset + at, bytes: size });
      at += size;
      room -= size;
    }
  }
  return splits;
}

/** Values of a key's last two bytes. */
const rests = 65536;

/** Appends records that share a prefix: a counting sort by the last two bytes, in as many passes. */
async function sortByRest(sort: Sort, inputs: readonly Segment[]): Promise<void> {
  const { memoryBytes, writer, signal } = sort;
  const counts = new Float64Array(rests);
  for await (const block of readBlocks(inputs, signal)) {
    for (let at = 0; at < block.length; at += recordBytes) counts[restAt(block, at)]++;
  }
  const recordsMax = Math.floor(Math.min(memoryBytes, 2 ** 31) / recordBytes);
  for (let first = 0; first < rests; ) {
    let end = first + 1;
    let records = counts[first];
    while (end < rests && records + counts[end] <= recordsMax) records += counts[end++];
    if (records > recordsMax) await copyEqual(sort, inputs, first);
    else if (records > 0) {
      const sorted = await collect(inputs, counts, first, end, records, signal);
      await writer.writeAll([sorted]);
      await writer.settle();
    }
    first = end;
  }
}

function restAt(records: Uint8Array, offset: number): number {
  return (records[offset + 8] << 8) | records[offset + 9];
}

/** The `records` whose rest is in [first, end), sorted by it. */
async function collect(
  inputs: readonly Segment[],
  counts: Float64Array,
  first: number,
  end: number,
  records: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const sorted = new Uint8Array(records * recordBytes);
  const places = new Float64Array(end - first);
  for (let i = 1; i < places.length; i++) {
    places[i] = places[i - 1] + counts[first + i - 1] * recordBytes;
  }
  for await (const block of readBlocks(inputs, signal)) {
    for (let at = 0; at < block.length; at += recordBytes) {
      const rest = restAt(block, at);
      if (rest < first || rest >= end) continue;
      sorted.set(block.subarray(at, at + recordBytes), places[rest - first]);
      places[rest - first] += recordBytes;
    }
  }
  return sorted;
}

/** Appends the records whose rest is `rest`, too many for memory: their order is that of arrival. */
async function copyEqual(sort: Sort, inputs: readonly Segment[], rest: number): Promise<void> {
  for await (const block of readBlocks(inputs, sort.signal)) {
    const equal: number[] = [];
    for (let at = 0; at < block.length; at += recordBytes) {
      if (restAt(block, at) === rest) equal.push(at);
    }
    await sort.writer.write(equal.length * recordBytes, (buffer) => {
      for (const [i, at] of equal.entries()) {
        buffer.set(block.subarray(at, at + recordBytes), i * recordBytes);
      }
    });
  }
}
