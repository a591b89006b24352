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
 * The row blocks of a task are as equal as can be (7 rows are 4 + 3), since narrow tiles are
 * slower.
 */
import {
  Assembler,
  type Gpr,
  type Label,
  type Mem,
  mem,
  r8,
  r9,
  r10,
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
} from "../codegen/index.ts";
import { emitDecode } from "./x86-decode.ts";
import { type Program, recordWords } from "./x86-record.ts";
import { emitClear, emitReluSum, emitStore } from "./x86-store.ts";
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
  stripsOf,
  tileArguments,
  tileRows,
} from "./x86-tile.ts";

/**
 * The program of a task for `spec`: entered with rdi = record, rsi = task of the group, rdx =
 * scratch.
 */
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
  /**
   * The block of k: A and its scales at the first row, B, steps; how much of k is left from it on.
   */
  "blockA",
  "blockScales",
  "blockB",
  "steps",
  "kLeft",
  /** The row block: its number, rows, A, totals. */
  "rowBlock",
  "tileRows",
  "tileA",
  "tileTotals",
] as const;

const saved: readonly Gpr[] = [rbx, rbp, r12, r13, r14, r15];
const frameBytes = localNames.length * 8;
const record: Gpr = rdi;

function local(name: (typeof localNames)[number]): Mem {
  return mem(rsp, { disp: localNames.indexOf(name) * 8 });
}

function word(name: keyof typeof recordWords): Mem {
  return mem(record, { disp: recordWords[name] * 8 });
}

/**
 * Tables of tiles by rows, and where they take B from: the first row block of a block of k, others.
 */
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
  private readonly base: Label;

  constructor(spec: KernelSpec) {
    this.spec = spec;
    this.base = this.asm.here("base");
  }

  emit(): Program {
    const { asm, spec } = this;
    const tiles = this.emitTiles();
    asm.align(64);
    const entry = asm.offset;
    for (const register of saved) asm.push(register);
    asm.sub(rsp, frameBytes);
    this.findTask();
    this.cutRows();
    const panel = asm.here("panel");
    asm.mov(rax, local("scratch"));
    asm.add(rax, keptBytes);
    asm.mov(rcx, local("rows"));
    emitClear(asm, spec.isa, { totals: rax, rows: rcx });
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
    const [only, first, other] = decodesInRegisters(spec)
      ? (["codes", "keep", "shared"] as const)
      : (["panel", "shared", "shared"] as const);
    const decoded = spec.weights === "f8e4m3" ? scratch : blockB;
    const shared = this.emitTable(other);
    return {
      only: this.emitTable(only),
      first: first === other ? shared : this.emitTable(first),
      other: shared,
      firstB: decodesInRegisters(spec) ? blockB : decoded,
      otherB: decoded,
    };
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
    asm.div(word("rowTasks"));
    asm.mov(panel, rax);
    asm.mov(row, rdx);
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
    // The tiles of a block of k together ask for the next block, evenly, so that memory stays busy.
    asm.mov(rax.d, streamStepBytes(this.spec) / stripsOf(this.spec, tileRows));
    asm.xor(rdx.d, rdx.d);
    asm.div(divisor);
    asm.lea(tileArguments.aheadStep, mem(rax, { disp: 1 }));
    asm.mov(rax, local("rows"));
    asm.xor(rdx.d, rdx.d);
    asm.div(divisor);
    asm.mov(local("baseRows"), rax);
    asm.mov(local("tallBlocks"), rdx);
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
    asm.add(bScale, spec.columnScales ? stepBytes : 4);
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
    const { a, aScale, aStride, aScaleStride, keep, odd, ahead, steps, totals } = tileArguments;
    // The next block, or panel, begins where this block ends.
    asm.mov(ahead, local("steps"));
    if (isPaired(spec)) asm.add(ahead, odd);
    asm.imul(ahead, ahead, streamStepBytes(spec));
    asm.add(ahead, local("blockB"));
    asm.mov(rax, local("blockA"));
    asm.mov(local("tileA"), rax);
    asm.mov(aScale, local("blockScales"));
    asm.mov(rax, local("scratch"));
    asm.add(rax, keptBytes);
    asm.mov(local("tileTotals"), rax);
    asm.mov(local("rowBlock"), 0);
    const next = asm.here("rows");
    const [rows, table, block] = [rax, rcx, r9];
    asm.mov(rows, local("baseRows"));
    asm.mov(block, local("rowBlock"));
    asm.cmp(block, local("tallBlocks"));
    asm.adc(rows, 0);
    asm.mov(local("tileRows"), rows);
    this.chooseTiles(tiles, table, block);
    asm.movsxd(rax, mem(table, { index: rows, scale: 4 }));
    asm.lea(table, mem(this.base));
    asm.add(rax, table);
    asm.mov(a, local("tileA"));
    asm.mov(totals, local("tileTotals"));
    asm.mov(keep, local("scratch"));
    asm.mov(steps, local("steps"));
    asm.call(rax);
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
    asm.mov(rax, local("rowBlock"));
    asm.inc(rax);
    asm.mov(local("rowBlock"), rax);
    asm.cmp(rax, local("rowBlocks"));
    asm.jb(next);
  }

  /** Sets `table`, and the tile's `b`. */
  private chooseTiles(tiles: Tiles, table: Gpr, block: Gpr): void {
    const { asm } = this;
    const chosen = asm.label("chosen");
    asm.lea(table, mem(tiles.other));
    asm.mov(tileArguments.b, tiles.otherB);
    asm.test(block, block);
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
    const places = { totals: r8, rows: rcx, d: r9, dStride: r10, width: rax };
    asm.mov(places.totals, local("scratch"));
    asm.add(places.totals, keptBytes);
    asm.mov(places.rows, local("rows"));
    asm.mov(places.d, local("d"));
    asm.mov(places.dStride, word("dStride"));
    asm.mov(places.width, local("width"));
    asm.movsxd(places.width, mem(places.width));
    if (this.spec.output === "rows") emitStore(asm, this.spec.isa, places, word("accumulate"));
    else emitReluSum(asm, this.spec.isa, places, word("rowWeights"));
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
