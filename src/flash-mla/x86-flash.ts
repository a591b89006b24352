/**
 * @file The machine-code rung of upstream's functions: turns units of work into tasks, writes their
 * records, launches the program, then the combination of what was split.
 */
import { ceilDiv } from "../base/index.ts";
import { ArgumentBlock, type Device } from "../device/index.ts";
import { addressOf } from "../native/index.ts";
import { combineFields, emitCombine } from "./x86-flash-combine.ts";
import {
  argumentLayout,
  type FlashShape,
  type FlashSpec,
  flashShapeOf,
  taskLayout,
} from "./x86-flash-layout.ts";
import { emitFlashProgram } from "./x86-flash-program.ts";

/** Addresses of the results of a unit's first row; `maxLogits` 0 where it is not asked for. */
interface FlashPlaces {
  readonly out: number;
  readonly lse: number;
  readonly maxLogits: number;
}

/** A run of a unit's keys: all of them, or a split. */
export interface FlashPart {
  /** Where its addresses start in the table of keys, and in that of values. */
  readonly keysAt: number;
  readonly valuesAt: number;
  readonly keyCount: number;
  /** Keys of the part that the first token's rows see; may be negative, or more than there are. */
  readonly visible: number;
}

/** The rows of one key head that attend to the same keys: `tokens` times the call's `group`. */
export interface FlashUnit extends FlashPlaces {
  /** Address of the first row's query. */
  readonly q: number;
  readonly tokens: number;
  /** Address of the sink of the first head of the group, or 0. */
  readonly sinks: number;
  /** More than one: their results are combined. */
  readonly parts: readonly FlashPart[];
}

/** Bytes from head to head of a token, and from token to token. */
interface FlashStrides {
  readonly head: number;
  readonly token: number;
}

/** A call of the program. */
export interface FlashCall {
  readonly spec: Omit<FlashSpec, "isa">;
  /** Heads of a key head. */
  readonly group: number;
  readonly causal: boolean;
  readonly softmaxScale: number;
  readonly q: FlashStrides;
  readonly out: FlashStrides;
  /** Also of `maxLogits`. */
  readonly lse: FlashStrides;
  readonly units: readonly FlashUnit[];
  /** Addresses of keys and of values, which units refer to. */
  readonly keys: AddressTable;
  readonly values: AddressTable;
}

/** A growing table of addresses in memory that the program reads. */
export class AddressTable {
  private readonly device: Device;
  private words: Uint32Array;
  private used = 0;

  constructor(device: Device, count: number) {
    this.device = device;
    this.words = new Uint32Array(device.allocate(Math.max(64, 8 * count)) as ArrayBuffer);
  }

  /** Addresses in the table. */
  get length(): number {
    return this.used;
  }

  /** The address pushed last. */
  get last(): number {
    const at = 2 * this.used - 2;
    return this.words[at] + 2 ** 32 * this.words[at + 1];
  }

  /** Address of entry `index`. */
  addressAt(index: number): number {
    return addressOf(this.words) + 8 * index;
  }

  /** Empties the table. */
  clear(): void {
    this.used = 0;
  }

  /** Adds an address. */
  push(address: number): void {
    if (2 * this.used === this.words.length) {
      const grown = new Uint32Array(this.device.allocate(8 * this.words.length) as ArrayBuffer);
      grown.set(this.words);
      this.words = grown;
    }
    this.words[2 * this.used] = address;
    this.words[2 * this.used + 1] = address / 2 ** 32;
    this.used++;
  }
}

/** What this room keeps on a device for these functions. */
interface Workshop {
  readonly programs: Map<string, Program>;
  readonly args: ArgumentBlock;
  readonly tasks: ArgumentBlock;
  readonly combineTasks: ArgumentBlock;
  readonly keys: AddressTable;
  readonly values: AddressTable;
  /** Results of parts, and their lse. */
  partials: Float32Array;
}

interface Program {
  readonly shape: FlashShape;
  readonly kernel: number;
  combine: number | undefined;
}

const workshops = new WeakMap<Device, Workshop>();

function workshopOf(device: Device): Workshop {
  let workshop = workshops.get(device);
  if (workshop === undefined) {
    workshop = {
      programs: new Map(),
      args: new ArgumentBlock(device, argumentLayout.bytes),
      tasks: new ArgumentBlock(device, 64 * taskLayout.bytes),
      combineTasks: new ArgumentBlock(device, 64 * taskLayout.bytes),
      keys: new AddressTable(device, 1024),
      values: new AddressTable(device, 64),
      partials: new Float32Array(0),
    };
    workshops.set(device, workshop);
  }
  return workshop;
}

/** The device's tables of keys and values, emptied for a call. */
export function tablesOf(device: Device): Record<"keys" | "values", AddressTable> {
  const { keys, values } = workshopOf(device);
  keys.clear();
  values.clear();
  return { keys, values };
}

function programOf(device: Device, workshop: Workshop, call: FlashCall): Program {
  const spec = { isa: device.isa!, ...call.spec };
  const key = JSON.stringify(spec);
  let program = workshop.programs.get(key);
  if (program === undefined) {
    const shape = flashShapeOf(spec, device.scratchBytes);
    const { code, entry } = emitFlashProgram(shape);
    const kernel = device.load(code, "flash-mla") + entry;
    program = { shape, kernel, combine: undefined };
    workshop.programs.set(key, program);
  }
  return program;
}

/** A part of a unit, some rows of it. */
interface Task {
  readonly unit: FlashUnit;
  readonly part: FlashPart;
  readonly firstRow: number;
  readonly rows: number;
  /** Number of the part among all that are combined, or undefined. */
  readonly partial: PartialPlace | undefined;
}

/** Addresses of the results of a part's first row. */
interface PartialPlace {
  readonly out: number;
  readonly lse: number;
}

/** Runs the call on the device; every address in it has been checked. */
export function runFlash(device: Device, call: FlashCall): void {
  const workshop = workshopOf(device);
  const program = programOf(device, workshop, call);
  const { shape } = program;
  const places = reservePartials(device, workshop, call, shape);
  const tasks: Task[] = [];
  call.units.forEach((unit, u) => {
    const rows = unit.tokens * call.group;
    const pieces = ceilDiv(rows, shape.rowsMax);
    // Equal pieces in whole vectors: a short last one would waste most of its lanes.
    const size = Math.min(shape.rowsMax, ceilDiv(ceilDiv(rows, pieces), shape.lanes) * shape.lanes);
    unit.parts.forEach((part, p) => {
      for (let firstRow = 0; firstRow < rows; firstRow += size) {
        const count = Math.min(size, rows - firstRow);
        tasks.push({ unit, part, firstRow, rows: count, partial: places[u]?.[p] });
      }
    });
  });
  if (tasks.length === 0) return;
  tasks.sort((x, y) => y.part.keyCount * y.rows - x.part.keyCount * x.rows);
  writeArguments(workshop.args, workshop.tasks, call, tasks.length);
  // What is asked for ahead may be two runs of any task.
  if (call.keys.length > 0) for (const _ of [0, 1]) call.keys.push(call.keys.last);
  tasks.forEach((task, i) => {
    const at = i * taskLayout.bytes;
    writeTask(workshop.tasks, at, task, call, shape);
    const next = tasks[i + device.threads] ?? task;
    workshop.tasks.setInt64(at + taskLayout.next, call.keys.addressAt(next.part.keysAt));
  });
  workshop.args.setAddress(argumentLayout.tasks, workshop.tasks.address);
  device.launch(program.kernel, workshop.args.address, tasks.length);
  if (places.some((list) => list !== undefined)) combine(device, workshop, program, call, places);
}

function writeArguments(
  args: ArgumentBlock,
  tasks: ArgumentBlock,
  call: FlashCall,
  count: number,
): void {
  tasks.reserve(count * taskLayout.bytes);
  args.setInt64(argumentLayout.group, call.group);
  args.setInt64(argumentLayout.causal, Number(call.causal));
  args.setInt64(argumentLayout.qStride, call.q.head);
  args.setInt64(argumentLayout.qJump, call.q.token - call.group * call.q.head);
  args.setFloat32(argumentLayout.scale, call.softmaxScale * Math.LOG2E);
}

function writeTask(
  tasks: ArgumentBlock,
  at: number,
  { unit, part, firstRow, rows, partial }: Task,
  call: FlashCall,
  shape: FlashShape,
): void {
  const { group } = call;
  const [token, head] = [Math.floor(firstRow / group), firstRow % group];
  const placeOf = (base: number, strides: FlashStrides) =>
    base + token * strides.token + head * strides.head;
  tasks.setAddress(at + taskLayout.q, placeOf(unit.q, call.q));
  const rowBytes = shape.slabs * shape.slabBytes;
  const outStrides = partial ? { head: rowBytes, token: group * rowBytes } : call.out;
  const lseStrides = partial ? { head: 4, token: 4 * group } : call.lse;
  const places = partial ?? unit;
  tasks.setAddress(at + taskLayout.out, placeOf(places.out, outStrides));
  tasks.setAddress(at + taskLayout.lse, placeOf(places.lse, lseStrides));
  const logits = partial || unit.maxLogits === 0 ? 0 : placeOf(unit.maxLogits, call.lse);
  tasks.setInt64(at + taskLayout.maxLogits, logits);
  tasks.setInt64(at + taskLayout.keys, call.keys.addressAt(part.keysAt));
  tasks.setInt64(at + taskLayout.values, call.values.addressAt(part.valuesAt));
  // What only rows of later tasks see need not be looked at.
  const lastToken = Math.floor((firstRow + rows - 1) / group);
  const seen = call.causal ? part.visible + lastToken : part.keyCount;
  tasks.setInt64(at + taskLayout.keyCount, Math.max(0, Math.min(part.keyCount, seen)));
  tasks.setInt64(at + taskLayout.visible, part.visible + (call.causal ? token : 0));
  tasks.setInt64(at + taskLayout.rows, rows);
  tasks.setInt64(at + taskLayout.head, head);
  writeStrides(tasks, at, group, outStrides, lseStrides);
  tasks.setInt64(at + taskLayout.sinks, partial ? 0 : unit.sinks);
  tasks.setInt64(at + taskLayout.partial, Number(partial !== undefined));
}

function writeStrides(
  tasks: ArgumentBlock,
  at: number,
  group: number,
  out: FlashStrides,
  lse: FlashStrides,
): void {
  tasks.setInt64(at + taskLayout.outStride, out.head);
  tasks.setInt64(at + taskLayout.outJump, out.token - group * out.head);
  tasks.setInt64(at + taskLayout.lseStride, lse.head);
  tasks.setInt64(at + taskLayout.lseJump, lse.token - group * lse.head);
}

/** Memory for the parts of units that have several: results, then lse, part after part. */
function reservePartials(
  device: Device,
  workshop: Workshop,
  call: FlashCall,
  shape: FlashShape,
): (PartialPlace[] | undefined)[] {
  const rowFloats = (shape.slabs * shape.slabBytes) / 4;
  let floats = 0;
  const starts = call.units.map(({ parts, tokens }) => {
    const start = floats;
    if (parts.length > 1) floats += parts.length * tokens * call.group * (rowFloats + 1);
    return start;
  });
  if (floats === 0) return [];
  if (floats > workshop.partials.length) {
    workshop.partials = new Float32Array(device.allocate(4 * floats) as ArrayBuffer);
  }
  const base = addressOf(workshop.partials);
  return call.units.map(({ parts, tokens }, u) => {
    if (parts.length < 2) return undefined;
    const rows = tokens * call.group;
    return parts.map((_, p) => ({
      out: base + 4 * (starts[u] + p * rows * rowFloats),
      lse: base + 4 * (starts[u] + parts.length * rows * rowFloats + p * rows),
    }));
  });
}

/** Rows of a task of the combination. */
const combineRows = 16;

function combine(
  device: Device,
  workshop: Workshop,
  program: Program,
  call: FlashCall,
  places: readonly (PartialPlace[] | undefined)[],
): void {
  const { shape } = program;
  program.combine ??= device.load(emitCombine(shape), "flash-mla combine");
  const { combineTasks: tasks, args } = workshop;
  const { group } = call;
  const rowBytes = shape.slabs * shape.slabBytes;
  let count = 0;
  call.units.forEach((unit, u) => {
    const parts = places[u];
    if (!parts) return;
    const rows = unit.tokens * group;
    for (let firstRow = 0; firstRow < rows; firstRow += combineRows) {
      tasks.reserve((count + 1) * taskLayout.bytes);
      const at = count++ * taskLayout.bytes;
      const [token, head] = [Math.floor(firstRow / group), firstRow % group];
      const placeOf = (base: number, strides: FlashStrides) =>
        base + token * strides.token + head * strides.head;
      tasks.setAddress(at + combineFields.partialOut, parts[0].out + firstRow * rowBytes);
      tasks.setAddress(at + combineFields.partialLse, parts[0].lse + 4 * firstRow);
      tasks.setInt64(at + combineFields.parts, parts.length);
      tasks.setInt64(at + combineFields.outPartBytes, rows * rowBytes);
      tasks.setInt64(at + combineFields.lsePartBytes, 4 * rows);
      tasks.setAddress(at + taskLayout.out, placeOf(unit.out, call.out));
      tasks.setAddress(at + taskLayout.lse, placeOf(unit.lse, call.lse));
      tasks.setInt64(at + taskLayout.rows, Math.min(combineRows, rows - firstRow));
      tasks.setInt64(at + taskLayout.head, head);
      writeStrides(tasks, at, group, call.out, call.lse);
      tasks.setInt64(at + taskLayout.sinks, unit.sinks);
    }
  });
  args.setAddress(argumentLayout.tasks, tasks.address);
  device.launch(program.combine, args.address, count);
}
