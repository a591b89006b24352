/**
 * @file The assembler: one method per mnemonic, made from the tables, over labels, data and a pool of
 * constants. What it emits is position-independent.
 */
import { alignUp, assert } from "../../base/index.ts";
import { type Encoded, encodeRow, type Fixup, type Mismatch, matchRow } from "./encoder.ts";
import { integerTable } from "./integer-table.ts";
import { Label, Mem } from "./registers.ts";
import {
  type Decorators,
  type IntegerMethods,
  type Operand,
  parseRow,
  type Row,
  type VectorMethods,
} from "./row.ts";
import { vectorTable } from "./vector-table.ts";

/** The tables' methods; go to the definition of one to see its row. */
export type InstructionMethods = IntegerMethods<typeof integerTable> &
  VectorMethods<typeof vectorTable>;

const tables: Readonly<Record<string, readonly string[]>> = { ...integerTable, ...vectorTable };
const parsed = new Map<string, readonly Row[]>();

/** Every mnemonic that the assembler knows. */
export const mnemonics: readonly string[] = Object.keys(tables);

/** The forms of `mnemonic`, parsed once. */
export function rowsOf(mnemonic: string): readonly Row[] {
  let rows = parsed.get(mnemonic);
  if (!rows) {
    assert(
      tables[mnemonic],
      () => `instruction: got "${mnemonic}", wanted a mnemonic of the tables`,
    );
    rows = tables[mnemonic].map(parseRow);
    parsed.set(mnemonic, rows);
  }
  return rows;
}

/** No-operation fillers of 1 to 9 bytes, as Intel recommends them (SDM volume 2, NOP). */
const nops: readonly (readonly number[])[] = [
  [0x90],
  [0x66, 0x90],
  [0x0f, 0x1f, 0x00],
  [0x0f, 0x1f, 0x40, 0x00],
  [0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
  [0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
  [0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

interface PoolEntry {
  label: Label;
  bytes: Uint8Array;
  alignment: number;
}

interface PendingFixup extends Fixup {
  /** Offset of the instruction's end, which the field is relative to. */
  end: number;
  mnemonic: string;
}

/** Code buffer, labels and constants; the instructions are added by `Assembler`. */
class CodeBuffer {
  private code: Uint8Array = new Uint8Array(1024);
  private length = 0;
  private readonly fixups: PendingFixup[] = [];
  private readonly pool = new Map<string, PoolEntry>();
  private labelCount = 0;
  private prefix = 0;
  private finished = false;

  /** Bytes emitted so far. */
  get offset(): number {
    return this.length;
  }

  /** A new label, not yet placed. `name` is for messages. */
  label(name: string = "label"): Label {
    return new Label(`${name}_${this.labelCount++}`);
  }

  /** Places `label` here. Throws if it has a place already. */
  bind(label: Label): void {
    assert(label.offset === undefined, () => `label ${label}: is bound already`);
    label.offset = this.length;
  }

  /** A new label that is placed here. */
  here(name: string = "here"): Label {
    const label = this.label(name);
    this.bind(label);
    return label;
  }

  /** Emits no-operations until the offset is a multiple of `alignment` (a power of two, at most 64). */
  align(alignment: number): void {
    assert(
      alignment > 0 && alignment <= 64 && (alignment & (alignment - 1)) === 0,
      () => `alignment of code: got ${alignment}, wanted a power of two up to 64`,
    );
    let gap = alignUp(this.length, alignment) - this.length;
    for (; gap > 0; gap -= Math.min(gap, 9)) this.data(nops[Math.min(gap, 9) - 1]);
  }

  /** Emits `bytes` here. */
  data(bytes: ArrayLike<number>): void {
    assert(!this.finished, "assembler: got an instruction after finish(), wanted none");
    while (this.length + bytes.length > this.code.length) {
      const grown = new Uint8Array(this.code.length * 2);
      grown.set(this.code);
      this.code = grown;
    }
    this.code.set(bytes, this.length);
    this.length += bytes.length;
  }

  /**
   * A label of read-only memory that holds `data`, placed behind the code; equal data share a place.
   * `alignment` in bytes defaults to the data's size, at most 64. Use as `mem(label)`.
   */
  constant(data: ArrayBufferView | readonly number[], alignment?: number): Label {
    const bytes = ArrayBuffer.isView(data)
      ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
      : Uint8Array.from(data);
    assert(bytes.length > 0, "constant: got no bytes, wanted some");
    const natural = Math.min(64, 2 ** Math.floor(Math.log2(bytes.length)));
    const wanted = alignment ?? natural;
    const key = Buffer.from(bytes).toString("latin1");
    const known = this.pool.get(key);
    if (known) {
      known.alignment = Math.max(known.alignment, wanted);
      return known.label;
    }
    const label = this.label("constant");
    this.pool.set(key, { label, bytes, alignment: wanted });
    return label;
  }

  /** Locks the next instruction, which must write memory: `asm.lock().xadd(mem(rdi), rax)`. */
  lock(): this {
    this.prefix = 0xf0;
    return this;
  }

  /** Repeats the next string instruction rcx times: `asm.rep().movsb()`. */
  rep(): this {
    this.prefix = 0xf3;
    return this;
  }

  /** Emits `mnemonic`, in its shortest form. The methods named after mnemonics call this. */
  emit(mnemonic: string, operands: readonly Operand[], decorators: Decorators = {}): void {
    const { row, encoded } = chooseForm(mnemonic, operands, decorators);
    this.emitPrefix(mnemonic, row, operands);
    const target = operands[0];
    if (row.longOpcode || row.slots[0]?.place === "J") {
      this.emitJump(mnemonic, row, target as Label);
      return;
    }
    const start = this.length;
    this.data(encoded.bytes);
    const { fixup } = encoded;
    if (fixup) {
      this.fixups.push({ ...fixup, at: start + fixup.at, end: this.length, mnemonic });
    }
  }

  private emitPrefix(mnemonic: string, row: Row, operands: readonly Operand[]): void {
    const { prefix } = this;
    this.prefix = 0;
    if (prefix === 0) return;
    const lockable = row.flags.has("lock") && operands.some((one) => one instanceof Mem);
    assert(prefix !== 0xf0 || lockable, () => `lock ${mnemonic}: wanted one that writes memory`);
    assert(
      prefix !== 0xf3 || /^(mov|sto)s/.test(mnemonic),
      () => `rep ${mnemonic}: not a string op`,
    );
    this.data([prefix]);
  }

  /** Backward jumps take 8 bits where they reach; forward jumps and calls take 32. */
  private emitJump(mnemonic: string, row: Row, label: Label): void {
    const distance = label.offset === undefined ? Number.NaN : label.offset - (this.length + 2);
    if (row.longOpcode && distance >= -128) {
      this.data([...row.opcode, distance & 0xff]);
      return;
    }
    this.data([...(row.longOpcode ?? row.opcode), 0, 0, 0, 0]);
    const end = this.length;
    this.fixups.push({ at: end - 4, end, label, addend: 0, mnemonic });
  }

  /**
   * The machine code, constants behind it, labels resolved; to be loaded at a multiple of 64.
   * Throws when a label in use is unbound or out of reach. Nothing can be emitted afterwards.
   */
  finish(): Uint8Array {
    for (const { label, bytes, alignment } of this.pool.values()) {
      this.data(new Uint8Array(alignUp(this.length, alignment) - this.length).fill(0xcc));
      this.bind(label);
      this.data(bytes);
    }
    const view = new DataView(this.code.buffer);
    for (const { at, end, label, addend, mnemonic } of this.fixups) {
      assert(label.offset !== undefined, () => `${mnemonic} at ${at}: label ${label} is not bound`);
      const distance = label.offset + addend - end;
      assert(
        distance === (distance | 0),
        () => `${mnemonic} at ${at}: label ${label} is ${distance} bytes away, wanted 32 bits`,
      );
      view.setInt32(at, distance, true);
    }
    this.finished = true;
    return this.code.slice(0, this.length);
  }
}

/** What makes one encoding better than another: VEX before EVEX, then length. */
function costOf(row: Row, { bytes }: Encoded): number {
  return bytes.length + (row.map > 0 && bytes[0] === 0x62 ? 16 : 0);
}

/** The shortest encoding that takes `operands`, the first of equals; throws if there is none. */
function chooseForm(
  mnemonic: string,
  operands: readonly Operand[],
  decorators: Decorators,
): { row: Row; encoded: Encoded } {
  let best: { row: Row; encoded: Encoded } | undefined;
  const misses: Mismatch[] = [];
  for (const row of rowsOf(mnemonic)) {
    const miss = matchRow(row, operands, decorators);
    if (miss) {
      misses.push(miss);
      continue;
    }
    const encoded = encodeRow(row, operands, decorators);
    if (!best || costOf(row, encoded) < costOf(best.row, best.encoded)) best = { row, encoded };
  }
  if (best) return best;
  // Of all the forms, the ones that fit longest are what the caller is likely to have meant.
  const furthest = Math.max(...misses.map((miss) => miss.taken));
  const near = misses.filter((miss) => miss.taken === furthest).map((miss) => miss.reason);
  throw new Error(`${mnemonic} ${operands.join(", ")}: ${[...new Set(near)].join("; or ")}`);
}

/** `CodeBuffer` with the instructions; a value of its own so that its type can be stated. */
const Instructions: new () => CodeBuffer & InstructionMethods = CodeBuffer as never;

for (const mnemonic of mnemonics) {
  Object.defineProperty(CodeBuffer.prototype, mnemonic, {
    value(this: CodeBuffer, ...operands: (Operand | Decorators)[]): void {
      const last = operands.at(-1);
      const decorated = typeof last === "object" && !("kind" in last);
      if (decorated || last === undefined) operands.pop();
      this.emit(mnemonic, operands as Operand[], decorated ? (last as Decorators) : {});
    },
  });
}

/**
 * Assembles x86-64 machine code: a method per mnemonic (operands in Intel order, destination first,
 * EVEX decorators last), such as `asm.vaddps(zmm(1), zmm(2), mem(rdi), { mask: k1, zero: true })`.
 * VEX is used where it can express the operands, EVEX elsewhere. A wrong operand throws, naming it.
 */
export class Assembler extends Instructions {}
