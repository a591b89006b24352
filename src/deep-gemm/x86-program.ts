/**
 * @file The program of a task: some rows of A times some panels of B, walked so that a block of B
 * (16 KiB) is read from the first-level cache by all row blocks of the task, while A's rows stay in
 * the second level:
 *
 *     for each panel                       64 columns of D
 *       totals = 0                         scratch memory, [rows, 64]
 *       for each block of k                128 of k, or 64 for f32 weights
 *         decode the block                 FP8, where tiles do not do it themselves
 *         for each row block               up to 6 rows: a tile, see x86-tile.ts
 *       D (+)= totals                      under a mask where the panel is partial
 *
 * The row blocks of a task are as equal as can be (7 rows are 4 + 3), since narrow tiles are slower.
 */
import {
  Assembler,
  type Gpr,
  hasAvx512,
  k1,
  k2,
  k3,
  k4,
  type Label,
  type Mem,
  mem,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  r15,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
  type Vec,
  ymm,
  zmm,
} from "../codegen/index.ts";
import { panelColumns } from "./layout.ts";
import { emitDecode } from "./x86-decode.ts";
import {
  activationStepBytes,
  blockSteps,
  decodesInRegisters,
  emitTile,
  isPaired,
  type KernelSpec,
  keptBytes,
  type Source,
  stepBytes,
  streamStepBytes,
  tileArguments,
  tileRows,
} from "./x86-tile.ts";

/** Places of a group's record, in 64-bit words; strides are bytes, addresses absolute. */
export const recordWords = {
  program: 0,
  a: 1,
  aStride: 2,
  aScales: 3,
  aScaleStride: 4,
  b: 5,
  panelBytes: 6,
  bScales: 7,
  bScaleStride: 8,
  /** int32 `[panels]`: columns that exist. */
  widths: 9,
  d: 10,
  dStride: 11,
  m: 12,
  rowsPerTask: 13,
  panels: 14,
  panelsPerTask: 15,
  /** Tasks side by side: panels / panelsPerTask, rounded up. */
  panelTasks: 16,
  k: 17,
  /** 1 to add to D, 0 to overwrite it. */
  accumulate: 18,
} as const;

/** 64-bit words of a record. */
export const recordLength: 20 = 20;
/** Machine code and the offset at which it is entered. */
export interface Program {
  readonly code: Uint8Array;
  readonly entry: number;
}

/**
 * The kernel that is launched: finds a task's group and jumps to the group's program.
 * Arguments: `[address of int32 ends of each group's tasks, address of the first record]`.
 */
export function emitDispatcher(): Program {
  const asm = new Assembler();
  const [ends, start] = [rax, rcx];
  asm.mov(ends, mem(rdi));
  asm.mov(rdi, mem(rdi, { disp: 8 }));
  asm.xor(start.d, start.d);
  const [next, found] = [asm.here("next"), asm.label("found")];
  asm.mov(r8.d, mem(ends));
  asm.cmp(rsi.d, r8.d);
  asm.jb(found);
  asm.mov(start.d, r8.d);
  asm.add(ends, 4);
  asm.add(rdi, recordLength * 8);
  asm.jmp(next);
  asm.bind(found);
  asm.sub(rsi.d, start.d);
  asm.jmp(mem(rdi, { disp: recordWords.program * 8 }));
  return { code: asm.finish(), entry: 0 };
}

/** The program of a task for `spec`: entered with rdi = record, rsi = task of the group, rdx = scratch. */
export function emitProgram(spec: KernelSpec): Program {
  return new TaskProgram(spec).emit();
}

/** The 64-bit words that a task keeps on the stack. */
const localNames = [
  /** Scratch memory: the decoded block, then the totals. */
  "scratch",
  /** Of the task's rows: A, its scales, D at the current panel; their number. */
  "a",
  "aScales",
  "d",
  "rows",
  /** Row blocks; how many of them, the first ones, have a row more than `baseRows`. */
  "rowBlocks",
  "tallBlocks",
  "baseRows",
  /** The panel: its stream, scales and width; how many are left, itself included. */
  "b",
  "bScales",
  "width",
  "panelsLeft",
  /** The block of k: A and its scales at the first row, B, steps; how much of k is left from it on. */
  "blockA",
  "blockScales",
  "blockB",
  "steps",
  "kLeft",
  /** Lines of the next block of B that each row block asks for; how far they have come in this one. */
  "prefetchLines",
  "prefetchAt",
  /** The row block: its rows, A, totals. */
  "tileRows",
  "tileA",
  "tileTotals",
  "tileCode",
] as const;

const saved: readonly Gpr[] = [rbx, rbp, r12, r13, r14, r15];
const frameBytes = localNames.length * 8;
const record: Gpr = rdi;
/** The row block's number. */
const rowBlock: Gpr = rbx;

function local(name: (typeof localNames)[number]): Mem {
  return mem(rsp, { disp: localNames.indexOf(name) * 8 });
}

function word(name: keyof typeof recordWords): Mem {
  return mem(record, { disp: recordWords[name] * 8 });
}

/** Tables of tiles by rows, and where they take B from: the first row block of a block of k, others. */
interface Tiles {
  /** The first where it is the only one. */
  readonly only: Label;
  readonly first: Label;
  readonly other: Label;
  readonly firstB: Mem;
  readonly otherB: Mem;
}

class TaskProgram {
  private readonly asm: Assembler = new Assembler();
  private readonly spec: KernelSpec;
  private readonly wide: boolean;
  private readonly base: Label;

  constructor(spec: KernelSpec) {
    this.spec = spec;
    this.wide = hasAvx512(spec.isa);
    this.base = this.asm.here("base");
  }

  emit(): Program {
    const { asm } = this;
    const tiles = this.emitTiles();
    asm.align(64);
    const entry = asm.offset;
    for (const register of saved) asm.push(register);
    asm.sub(rsp, frameBytes);
    this.findTask();
    this.cutRows();
    const panel = asm.here("panel");
    this.clearTotals();
    this.walkDepth(tiles);
    this.storeTotals();
    this.nextPanel(panel);
    asm.add(rsp, frameBytes);
    for (const register of saved.toReversed()) asm.pop(register);
    asm.vzeroupper();
    asm.ret();
    return { code: asm.finish(), entry };
  }

  private emitTiles(): Tiles {
    const { spec } = this;
    const [blockB, scratch] = [local("blockB"), local("scratch")];
    const other = this.emitTable("hot");
    if (decodesInRegisters(spec)) {
      const [only, first] = [this.emitTable("codes"), this.emitTable("keep")];
      return { only, first, other, firstB: blockB, otherB: scratch };
    }
    if (spec.weights === "f8e4m3") {
      return { only: other, first: other, other, firstB: scratch, otherB: scratch };
    }
    const first = this.emitTable("stream");
    return { only: first, first, other, firstB: blockB, otherB: blockB };
  }

  /** Tiles of 1 to 6 rows; returns a table of their offsets, by rows. */
  private emitTable(source: Source): Label {
    const offsets = new Int32Array(tileRows + 1);
    for (let rows = 1; rows <= tileRows; rows++) {
      offsets[rows] = emitTile(this.asm, this.spec, rows, source).offset!;
    }
    return this.asm.constant(offsets);
  }

  /** Finds the task's rows and panels. */
  private findTask(): void {
    const { asm } = this;
    const [row, panel, product] = [r8, r9, rax];
    asm.mov(local("scratch"), rdx);
    asm.mov(rax.d, rsi.d);
    asm.xor(rdx.d, rdx.d);
    asm.div(word("panelTasks"));
    asm.mov(row, rax);
    asm.mov(panel, rdx);
    asm.imul(row, word("rowsPerTask"));
    asm.imul(panel, word("panelsPerTask"));
    const place = (to: Mem, start: Mem, index: Gpr, stride: Mem) => {
      asm.mov(product, index);
      asm.imul(product, stride);
      asm.add(product, start);
      asm.mov(to, product);
    };
    place(local("a"), word("a"), row, word("aStride"));
    place(local("aScales"), word("aScales"), row, word("aScaleStride"));
    place(local("b"), word("b"), panel, word("panelBytes"));
    place(local("bScales"), word("bScales"), panel, word("bScaleStride"));
    place(local("d"), word("d"), row, word("dStride"));
    asm.imul(product, panel, stepBytes);
    asm.add(local("d"), product);
    asm.imul(product, panel, 4);
    asm.add(product, word("widths"));
    asm.mov(local("width"), product);
    const least = (to: Mem, size: Mem, start: Gpr, most: Mem) => {
      asm.mov(rax, size);
      asm.sub(rax, start);
      asm.cmp(rax, most);
      asm.cmova(rax, most);
      asm.mov(to, rax);
    };
    least(local("panelsLeft"), word("panels"), panel, word("panelsPerTask"));
    least(local("rows"), word("m"), row, word("rowsPerTask"));
  }

  /** Row blocks: as few as can be, and as equal. */
  private cutRows(): void {
    const { asm } = this;
    const divisor = r8;
    asm.mov(rax, local("rows"));
    asm.add(rax, tileRows - 1);
    asm.xor(rdx.d, rdx.d);
    asm.mov(divisor.d, tileRows);
    asm.div(divisor);
    asm.mov(local("rowBlocks"), rax);
    asm.mov(divisor, rax);
    asm.mov(rax.d, this.bBlockBytes / 64);
    asm.xor(rdx.d, rdx.d);
    asm.div(divisor);
    asm.add(rax, 1);
    asm.mov(local("prefetchLines"), rax);
    asm.mov(rax, local("rows"));
    asm.xor(rdx.d, rdx.d);
    asm.div(divisor);
    asm.mov(local("baseRows"), rax);
    asm.mov(local("tallBlocks"), rdx);
  }

  /** The vectors of 64 columns, each with its offset in bytes. */
  private get columns(): [Vec, number][] {
    return Array.from({ length: this.wide ? 4 : 8 }, (_, i) =>
      this.wide ? [zmm(i), i * 64] : [ymm(i), i * 32],
    );
  }

  private clearTotals(): void {
    const { asm } = this;
    const [totals, rows] = [rax, rcx];
    const zero = this.columns[0][0];
    asm.mov(totals, local("scratch"));
    asm.mov(rows, local("rows"));
    asm.vxorps(zero.x, zero.x, zero.x);
    const next = asm.here("clear");
    for (const [, disp] of this.columns) asm.vmovups(mem(totals, { disp: keptBytes + disp }), zero);
    asm.add(totals, stepBytes);
    asm.dec(rows);
    asm.jne(next);
  }

  private walkDepth(tiles: Tiles): void {
    const { asm, spec } = this;
    const { aStride, aScaleStride, bScale } = tileArguments;
    const copy = (to: Mem, from: Mem) => {
      asm.mov(rax, from);
      asm.mov(to, rax);
    };
    copy(local("blockA"), local("a"));
    copy(local("blockScales"), local("aScales"));
    copy(local("blockB"), local("b"));
    copy(local("kLeft"), word("k"));
    asm.mov(aStride, word("aStride"));
    asm.mov(aScaleStride, word("aScaleStride"));
    asm.mov(bScale, local("bScales"));
    const block = asm.here("block");
    this.findSteps();
    if (spec.weights === "f8e4m3" && !decodesInRegisters(spec)) {
      asm.mov(tileArguments.b, local("blockB"));
      asm.mov(tileArguments.keep, local("scratch"));
      asm.mov(tileArguments.steps, local("steps"));
      asm.add(tileArguments.steps, tileArguments.odd);
      emitDecode(asm, tileArguments.b, tileArguments.keep, tileArguments.steps);
    }
    this.walkRows(tiles);
    asm.add(local("blockA"), this.aBlockBytes);
    asm.add(local("blockScales"), 4);
    asm.add(bScale, 4);
    asm.add(local("blockB"), this.bBlockBytes);
    asm.sub(local("kLeft"), this.blockDepth);
    asm.ja(block);
  }

  /** k of a full block, and the bytes of a row of A and of a panel in it. */
  private get blockDepth(): number {
    return isPaired(this.spec) ? 2 * blockSteps : blockSteps;
  }

  private get aBlockBytes(): number {
    return blockSteps * activationStepBytes(this.spec);
  }

  private get bBlockBytes(): number {
    return blockSteps * streamStepBytes(this.spec);
  }

  private findSteps(): void {
    const { asm } = this;
    const { odd } = tileArguments;
    asm.mov(rax, local("kLeft"));
    asm.mov(rcx.d, this.blockDepth);
    asm.cmp(rax, rcx);
    asm.cmova(rax, rcx);
    if (isPaired(this.spec)) {
      asm.mov(odd, rax);
      asm.and(odd, 1);
      asm.shr(rax, 1);
    }
    asm.mov(local("steps"), rax);
  }

  private walkRows(tiles: Tiles): void {
    const { asm, spec } = this;
    const { a, aScale, aStride, aScaleStride, keep, steps, totals } = tileArguments;
    asm.mov(rax, local("blockA"));
    asm.mov(local("tileA"), rax);
    asm.mov(rax, local("blockB"));
    asm.mov(local("prefetchAt"), rax);
    asm.mov(aScale, local("blockScales"));
    asm.mov(rax, local("scratch"));
    asm.add(rax, keptBytes);
    asm.mov(local("tileTotals"), rax);
    asm.xor(rowBlock.d, rowBlock.d);
    const next = asm.here("rows");
    const [rows, table] = [rax, rcx];
    asm.mov(rows, local("baseRows"));
    asm.cmp(rowBlock, local("tallBlocks"));
    asm.adc(rows, 0);
    asm.mov(local("tileRows"), rows);
    this.chooseTiles(tiles, table);
    asm.movsxd(rax, mem(table, { index: rows, scale: 4 }));
    asm.lea(table, mem(this.base));
    asm.add(rax, table);
    asm.mov(local("tileCode"), rax);
    this.prefetchNextBlock();
    asm.mov(a, local("tileA"));
    this.prefetchNextRows();
    asm.mov(totals, local("tileTotals"));
    asm.mov(keep, local("scratch"));
    asm.mov(steps, local("steps"));
    asm.call(local("tileCode"));
    asm.mov(rax, local("tileRows"));
    asm.mov(rcx, rax);
    asm.imul(rcx, aStride);
    asm.add(local("tileA"), rcx);
    if (spec.activation === "f8e4m3") {
      asm.mov(rcx, rax);
      asm.imul(rcx, aScaleStride);
      asm.add(aScale, rcx);
    }
    asm.imul(rax, rax, stepBytes);
    asm.add(local("tileTotals"), rax);
    asm.inc(rowBlock);
    asm.cmp(rowBlock, local("rowBlocks"));
    asm.jb(next);
  }

  /**
   * Asks for a share of the next block of B, so that memory is as busy during the other row blocks as
   * during the first, which reads the block. Panels follow each other, so there is a next one nearly
   * always; a request beyond the end does no harm.
   */
  private prefetchNextBlock(): void {
    const { asm } = this;
    const [lines, place] = [rcx, rax];
    asm.mov(lines, local("prefetchLines"));
    asm.mov(place, local("prefetchAt"));
    const next = asm.here("prefetch");
    asm.prefetcht1(mem(place, { disp: this.bBlockBytes }));
    asm.add(place, 64);
    asm.dec(lines);
    asm.jne(next);
    asm.mov(local("prefetchAt"), place);
  }

  /** Asks for A of the row block after this one; its rows are too far apart for the processor to. */
  private prefetchNextRows(): void {
    const { asm } = this;
    const { a, aStride } = tileArguments;
    const [next, bytes] = [rcx, this.aBlockBytes];
    asm.mov(next, local("tileRows"));
    asm.imul(next, aStride);
    asm.add(next, a);
    for (let row = 0; row < tileRows; row++) {
      for (let disp = 0; disp < bytes; disp += 64) asm.prefetcht0(mem(next, { disp }));
      asm.add(next, aStride);
    }
  }

  /** Sets `table`, and the tile's `b`. */
  private chooseTiles(tiles: Tiles, table: Gpr): void {
    const { asm } = this;
    const chosen = asm.label("chosen");
    asm.lea(table, mem(tiles.other));
    asm.mov(tileArguments.b, tiles.otherB);
    asm.test(rowBlock, rowBlock);
    asm.jne(chosen);
    asm.mov(tileArguments.b, tiles.firstB);
    asm.lea(table, mem(tiles.first));
    asm.cmp(local("rowBlocks"), 1);
    asm.jne(chosen);
    asm.lea(table, mem(tiles.only));
    asm.bind(chosen);
  }

  /** D (+)= totals for the panel's columns. */
  private storeTotals(): void {
    const { asm } = this;
    const width = rax;
    asm.mov(width, local("width"));
    asm.movsxd(width, mem(width));
    const [partial, done] = [asm.label("partial"), asm.label("stored")];
    asm.cmp(width.d, panelColumns);
    asm.jne(partial);
    this.storeRows(false, done);
    asm.bind(partial);
    this.storeRows(true, done);
    asm.bind(done);
  }

  private storeRows(partial: boolean, done: Label): void {
    const { asm } = this;
    const add = asm.label("add");
    const [rows, totals, d, dStride] = [rcx, r8, r9, r10];
    asm.mov(rows, local("rows"));
    asm.mov(totals, local("scratch"));
    asm.add(totals, keptBytes);
    asm.mov(d, local("d"));
    asm.mov(dStride, word("dStride"));
    if (partial) this.findMasks();
    asm.cmp(word("accumulate"), 0);
    asm.jne(add);
    for (const accumulate of [false, true]) {
      if (accumulate) asm.bind(add);
      const next = asm.here("store");
      this.columns.forEach(([vector, disp], i) => {
        asm.vmovups(vector, mem(totals, { disp }));
        this.storeVector(vector, mem(d, { disp }), accumulate, partial ? i : undefined);
      });
      asm.add(totals, stepBytes);
      asm.add(d, dStride);
      asm.dec(rows);
      asm.jne(next);
      asm.jmp(done);
    }
  }

  /** Masks of the columns that exist, from the width in rax: k1 to k4, or a pointer into a table. */
  private findMasks(): void {
    const { asm } = this;
    if (this.wide) {
      asm.mov(r11, -1);
      asm.bzhi(r11, r11, rax);
      for (const mask of [k1, k2, k3, k4]) {
        asm.kmovw(mask, r11.d);
        asm.shr(r11, 16);
      }
    } else {
      const ones = new Int32Array(2 * panelColumns).fill(-1, 0, panelColumns);
      asm.lea(r11, mem(asm.constant(ones)));
      asm.shl(rax, 2);
      asm.sub(r11, rax);
      asm.add(r11, 4 * panelColumns);
    }
  }

  private storeVector(vector: Vec, place: Mem, accumulate: boolean, maskIndex?: number): void {
    const { asm } = this;
    if (maskIndex === undefined) {
      if (accumulate) asm.vaddps(vector, vector, place);
      asm.vmovups(place, vector);
    } else if (this.wide) {
      const mask = [k1, k2, k3, k4][maskIndex];
      if (accumulate) asm.vaddps(vector, vector, place, { mask });
      asm.vmovups(place, vector, { mask });
    } else {
      const [mask, before] = [ymm(8), ymm(9)];
      asm.vmovups(mask, mem(r11, { disp: maskIndex * 32 }));
      if (accumulate) {
        asm.vmaskmovps(before, mask, place);
        asm.vaddps(vector, vector, before);
      }
      asm.vmaskmovps(place, mask, vector);
    }
  }

  private nextPanel(panel: Label): void {
    const { asm } = this;
    const step = (place: Mem, by: Mem | number) => {
      if (typeof by === "number") asm.add(place, by);
      else {
        asm.mov(rax, by);
        asm.add(place, rax);
      }
    };
    step(local("b"), word("panelBytes"));
    step(local("bScales"), word("bScaleStride"));
    step(local("width"), 4);
    step(local("d"), stepBytes);
    asm.dec(local("panelsLeft"));
    asm.jne(panel);
  }
}
