/** @file The x86 rung: calls the machine code over memory of its own. */
import { assert, ceilDiv } from "../../base/index.ts";
import { ArgumentBlock, type Device } from "../../device/index.ts";
import { addressOf, map, unmap, viewAt } from "../../native/index.ts";
import type { Buckets, RecordKernels, Tally } from "./kernels.ts";
import { keyAt, recordBytes, recordsIn, stateAfter } from "./record.ts";
import * as code from "./x86-code.ts";

const kernelNames = {
  extract: code.extractCode,
  sortByPrefix: code.sortByPrefixCode,
  sortByRest: code.sortByRestCode,
  gather: code.gatherCode,
  generate: code.generateCode,
  check: code.checkCode,
} as const;

interface Arena {
  readonly address: number;
  readonly bytes: number;
}

/** One argument block and the addresses of the kernels, made on first use. */
class Machine {
  readonly device: Device;
  readonly block: ArgumentBlock;
  readonly words: BigUint64Array;
  private readonly addresses = new Map<string, number>();
  /** Memory that buckets gave back: its pages are there already, which the next need not touch anew. */
  private spare: Arena | undefined;

  constructor(device: Device) {
    this.device = device;
    this.block = new ArgumentBlock(device, 64);
    this.words = new BigUint64Array(viewAt(this.block.address, 64));
  }

  takeArena(bytes: number): Arena {
    const { spare } = this;
    if (spare === undefined || spare.bytes < bytes) return { address: map(bytes), bytes };
    this.spare = undefined;
    return spare;
  }

  giveArena(arena: Arena): void {
    const [kept, freed] =
      this.spare && this.spare.bytes > arena.bytes ? [this.spare, arena] : [arena, this.spare];
    this.spare = kept;
    if (freed) unmap(freed.address, freed.bytes);
  }

  close(): void {
    if (this.spare) unmap(this.spare.address, this.spare.bytes);
    this.spare = undefined;
  }

  run(name: keyof typeof kernelNames): void {
    this.launch(name, kernelNames[name]);
  }

  scatter(levels: number): void {
    this.launch(`scatter${levels}`, (isa) => code.scatterCode(isa, levels));
  }

  private launch(name: string, emit: (isa: NonNullable<Device["isa"]>) => Uint8Array): void {
    const { isa } = this.device;
    assert(isa !== undefined, "machine code: the device has no instruction set");
    let address = this.addresses.get(name);
    if (address === undefined) {
      address = this.device.load(emit(isa), `graysort ${name}`);
      this.addresses.set(name, address);
    }
    this.device.launch(address, this.block.address, 1);
  }
}

/** The kernels of this rung on `device`. */
export function openX86Kernels(device: Device): RecordKernels {
  const machine = new Machine(device);
  const digits = digitTables();
  const crcTable = crcTables();
  return {
    generate: (out, firstRow) => generate(machine, digits, out, firstRow),
    check: (records, tally) => check(machine, crcTable, records, tally),
    buckets: (capacity, splitters) => new X86Buckets(machine, capacity, splitters),
    close: () => machine.close(),
  };
}

interface DigitTables {
  readonly pairs: Uint16Array;
  readonly quads: Uint32Array;
}

/** Each byte as two hexadecimal digits, and each digit four times. */
function digitTables(): DigitTables {
  const digit = (value: number): number => "0123456789ABCDEF".charCodeAt(value);
  return {
    pairs: Uint16Array.from({ length: 256 }, (_, i) => digit(i >> 4) | (digit(i & 15) << 8)),
    quads: Uint32Array.from({ length: 16 }, (_, i) => digit(i) * 0x01010101),
  };
}

function generate(m: Machine, tables: DigitTables, out: Uint8Array, firstRow: bigint): void {
  const { block } = m;
  const count = recordsIn(out.length);
  if (count === 0) return;
  const state = stateAfter(firstRow);
  const args = code.generateArgs;
  block.setAddress(args.out, addressOf(out));
  block.setInt64(args.count, count);
  m.words[args.state / 8] = BigInt.asUintN(64, state);
  m.words[args.state / 8 + 1] = state >> 64n;
  m.words[args.row / 8] = firstRow;
  block.setAddress(args.pairs, addressOf(tables.pairs));
  block.setAddress(args.quads, addressOf(tables.quads));
  m.run("generate");
}

/** Entry [k][b]: what byte b contributes to the CRC-32 when k bytes follow it in the step. */
function crcTables(): Uint32Array {
  const table = new Uint32Array(8 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    table[byte] = crc;
  }
  for (let i = 256; i < table.length; i++) {
    const before = table[i - 256];
    table[i] = (before >>> 8) ^ table[before & 255];
  }
  return table;
}

function check(m: Machine, crcTable: Uint32Array, records: Uint8Array, tally: Tally): void {
  const count = recordsIn(records.length);
  if (count === 0) return;
  const args = code.checkArgs;
  const { block, words } = m;
  const isFirst = tally.lastKey === undefined;
  tally.firstKey ??= keyAt(records, 0);
  const last = viewOf(tally.lastKey ?? tally.firstKey);
  block.setAddress(args.records, addressOf(records));
  block.setInt64(args.count, count);
  words[args.prefix / 8] = last.getBigUint64(0);
  words[args.rest / 8] = BigInt(last.getUint16(8));
  words[args.checksum / 8] = tally.checksum;
  block.setInt64(args.unordered, tally.unordered);
  // The first record is compared with itself.
  words[args.duplicates / 8] = BigInt.asUintN(64, BigInt(tally.duplicates - (isFirst ? 1 : 0)));
  block.setAddress(args.table, addressOf(crcTable));
  m.run("check");
  tally.records += count;
  tally.checksum = words[args.checksum / 8];
  tally.unordered = Number(words[args.unordered / 8]);
  tally.duplicates = Number(words[args.duplicates / 8]);
  tally.lastKey = keyAt(records, records.length - recordBytes);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Ascending splitters as a search tree in breadth-first order, the root at 1. */
function searchTree(splitters: BigUint64Array): BigUint64Array {
  const tree = new BigUint64Array(splitters.length + 1);
  let next = 0;
  const fill = (node: number): void => {
    if (node >= tree.length) return;
    fill(2 * node);
    tree[node] = splitters[next++];
    fill(2 * node + 1);
  };
  fill(1);
  return tree;
}

/** Bytes of a window: the views that JavaScript has of the arena. A multiple of a chunk. */
const windowBytes = 2 ** 30;

class X86Buckets implements Buckets {
  readonly count: number;
  private readonly machine: Machine;
  private readonly capacity: number;
  private readonly levels: number;
  private readonly tree: BigUint64Array;
  private readonly table: BigUint64Array;
  private readonly windows: Uint8Array[] = [];
  private readonly histogram = new Uint8Array(code.histogramBytes);
  private readonly arena: Arena;
  private closed = false;
  private nextChunk: number;
  private added = 0;
  private entries: BigUint64Array = new BigUint64Array(0);
  private spare: BigUint64Array = new BigUint64Array(0);
  private sortedCount = 0;

  constructor(machine: Machine, capacity: number, splitters: BigUint64Array) {
    this.machine = machine;
    this.capacity = capacity;
    this.count = splitters.length + 1;
    this.levels = Math.log2(this.count);
    assert(
      Number.isInteger(this.levels) && this.levels > 0,
      () => `buckets: got ${this.count}, wanted a power of two, at least 2`,
    );
    this.tree = searchTree(splitters);
    this.table = new BigUint64Array((this.count * code.rowBytes) / 8);
    const chunks = ceilDiv(capacity, code.chunkRecords) + this.count;
    this.arena = machine.takeArena(chunks * code.chunkBytes);
    const { address, bytes } = this.arena;
    this.nextChunk = address;
    for (let at = 0; at < bytes; at += windowBytes) {
      const window = viewAt(address + at, Math.min(windowBytes, bytes - at));
      this.windows.push(new Uint8Array(window));
    }
  }

  add(records: Uint8Array): void {
    const count = recordsIn(records.length);
    if (count === 0) return;
    this.added += count;
    assert(this.added <= this.capacity, () => `buckets: got ${this.added}, hold ${this.capacity}`);
    const { block, words } = this.machine;
    const args = code.scatterArgs;
    block.setAddress(args.records, addressOf(records));
    block.setInt64(args.count, count);
    block.setAddress(args.tree, addressOf(this.tree));
    block.setAddress(args.table, addressOf(this.table));
    block.setAddress(args.nextChunk, this.nextChunk);
    this.machine.scatter(this.levels);
    this.nextChunk = Number(words[args.nextChunk / 8]);
  }

  private firstChunk(bucket: number): number {
    return Number(this.table[(bucket * code.rowBytes) / 8 + 2]);
  }

  sizeOf(bucket: number): number {
    return Number(this.table[(bucket * code.rowBytes) / 8 + 3]);
  }

  pieces(bucket: number): Uint8Array[] {
    const pieces: Uint8Array[] = [];
    let chunk = this.firstChunk(bucket);
    for (let rest = this.sizeOf(bucket); rest > 0; rest -= code.chunkRecords) {
      const bytes = Math.min(rest, code.chunkRecords) * recordBytes;
      const offset = chunk - this.arena.address;
      const window = this.windows[Math.floor(offset / windowBytes)];
      const start = offset % windowBytes;
      pieces.push(window.subarray(start, start + bytes));
      const link = new DataView(window.buffer, start + code.chunkBytes - 8, 8);
      chunk = Number(link.getBigUint64(0, true));
    }
    return pieces;
  }

  sort(bucket: number): void {
    const count = this.sizeOf(bucket);
    this.sortedCount = count;
    if (count === 0) return;
    this.reserve(count);
    const { block } = this.machine;
    const args = code.extractArgs;
    block.setAddress(args.chunk, this.firstChunk(bucket));
    block.setInt64(args.count, count);
    block.setAddress(args.entries, addressOf(this.entries));
    this.machine.run("extract");
    this.sortEntries(0, count);
  }

  private reserve(count: number): void {
    const words = (code.entryBytes / 8) * (count + code.entriesAhead);
    if (words <= this.entries.length) return;
    const { device } = this.machine;
    this.entries = new BigUint64Array(device.allocate(Math.ceil(1.25 * words) * 8));
    this.spare = new BigUint64Array(device.allocate(Math.ceil(1.25 * words) * 8));
  }

  /** Sorts `count` entries from `first` on; long runs that two digits left equal are sorted anew. */
  private sortEntries(first: number, count: number): void {
    if (count < 2) return;
    assert(count < 2 ** 28, () => `entries of one sort: got ${count}, wanted below 2^28`);
    const { block, words } = this.machine;
    const args = code.sortArgs;
    const base = addressOf(this.entries);
    const list = new BigUint64Array(2 * ceilDiv(count, code.insertedMax));
    block.setAddress(args.entries, base + first * code.entryBytes);
    block.setAddress(args.spare, addressOf(this.spare));
    block.setInt64(args.count, count);
    block.setAddress(args.histogram, addressOf(this.histogram));
    block.setAddress(args.list, addressOf(list));
    this.machine.run("sortByPrefix");
    const runs = Number(BigInt.asIntN(64, words[args.runs / 8]));
    if (runs < 0) {
      this.machine.run("sortByRest");
      return;
    }
    for (let i = 0; i < runs; i++) {
      const start = (Number(list[2 * i]) - base) / code.entryBytes;
      const end = (Number(list[2 * i + 1]) - base) / code.entryBytes;
      this.sortEntries(start, end - start);
    }
  }

  copy(first: number, out: Uint8Array): void {
    const count = recordsIn(out.length);
    if (count === 0) return;
    assert(
      first >= 0 && first + count <= this.sortedCount,
      () => `sorted records: got ${first} to ${first + count}, have ${this.sortedCount}`,
    );
    const { block } = this.machine;
    const args = code.gatherArgs;
    block.setAddress(args.entries, addressOf(this.entries) + first * code.entryBytes);
    block.setInt64(args.count, count);
    block.setAddress(args.out, addressOf(out));
    this.machine.run("gather");
  }

  clear(): void {
    this.table.fill(0n);
    this.nextChunk = this.arena.address;
    this.added = 0;
    this.sortedCount = 0;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.windows.length = 0;
    this.machine.giveArena(this.arena);
  }
}
