/**
 * @file The program of a task of `flash-x86`, see `x86-flash-layout.ts`:
 *
 *     transpose the queries; results = 0
 *     for each span of keys                       two pages
 *       copy the span where it must be            `x86-flash-stage.ts`
 *       for each one or two vectors of rows
 *         scores; hide what is not seen; weights
 *       for each slab of dimensions               64, so that values stay in the nearest cache
 *         for each tile of rows                   up to 6
 *           results = factor * results + weights * values
 *     divide the results, write them              `x86-flash-results.ts`
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
  VectorBuilder,
} from "../codegen/index.ts";
import {
  argumentLayout,
  type FlashShape,
  rowRecord,
  runKeys,
  taskLayout,
  valueTileRows,
} from "./x86-flash-layout.ts";
import { emitResults } from "./x86-flash-results.ts";
import { emitMask, emitSoftmax, noScore, scratch, softmaxArguments } from "./x86-flash-softmax.ts";
import {
  emitPairedRows,
  emitStagedFp8,
  emitStagedRow,
  emitTransposedRow,
} from "./x86-flash-stage.ts";
import {
  emitScoreTile,
  emitValueTile,
  scoreTile,
  scoreTileKeys,
  scoreVectorsMax,
  valueTile,
} from "./x86-flash-tiles.ts";

/** 64-bit words in scratch memory that live across the program's loops. */
const localNames = [
  /** Keys before the span, and in it. */
  "done",
  "count",
  /** The same rounded up to tiles. */
  "rounded",
  /** Vectors of rows; the current one. */
  "vectors",
  "vector",
  /** Keys whose scores are there. */
  "key",
  /** Bytes to the next place to ask for. */
  "aheadStep",
  /** Address of the slab's values, or bytes of it into a row; bytes of it into the results. */
  "slab",
  "slabOut",
  /** Row of the task. */
  "row",
  /** Runs of the span's keys, and of the next span's. */
  "keys0",
  "keys1",
  "ahead0",
  "ahead1",
  /** Where the value tiles ask next, and bytes of a step and of a tile. */
  "aheadValue",
  "aheadValueStep",
  "aheadTile",
] as const;
type LocalName = (typeof localNames)[number];

const args: Gpr = r15;
const task: Gpr = rbp;

/** Where code for a spec is entered, and its bytes. */
export interface FlashProgram {
  readonly code: Uint8Array;
  readonly entry: number;
}

/** Emits the program. */
export function emitFlashProgram(shape: FlashShape): FlashProgram {
  return new Program(shape).emit();
}

class Program {
  private readonly asm: Assembler = new Assembler();
  private readonly v: VectorBuilder;
  private readonly shape: FlashShape;
  private readonly base: Label;

  constructor(shape: FlashShape) {
    this.shape = shape;
    this.v = new VectorBuilder(this.asm, shape.isa);
    this.base = this.asm.here("base");
  }

  emit(): FlashProgram {
    const { asm, v } = this;
    const tiles = this.emitTable();
    asm.align(64);
    const entry = asm.offset;
    v.kernel([rbx, rbp, r12, r13, r14, r15], () => {
      asm.mov(args, rdi);
      asm.mov(scratch, rdx);
      asm.shl(rsi, Math.log2(taskLayout.bytes));
      asm.add(rsi, mem(args, { disp: argumentLayout.tasks }));
      asm.mov(task, rsi);
      this.clear();
      this.takeRows();
      this.eachSpan(() => {
        this.findRuns();
        this.scoreAll();
        this.sumValues(tiles);
      });
      emitResults(v, this.shape, this.local("row"));
    });
    return { code: asm.finish(), entry };
  }

  /** Value tiles of 1 to 6 rows; returns a table of their offsets, by rows. */
  private emitTable(): Label {
    const offsets = new Int32Array(valueTileRows + 1);
    for (let rows = 1; rows <= valueTileRows; rows++) {
      offsets[rows] = emitValueTile(this.asm, this.shape, rows).offset!;
    }
    return this.asm.constant(offsets);
  }

  private local(name: LocalName): Mem {
    const disp = this.shape.offsets.locals + 8 * localNames.indexOf(name);
    return mem(scratch, { disp });
  }

  private field(name: keyof typeof taskLayout): Mem {
    return mem(task, { disp: taskLayout[name] });
  }

  /** Clears queries and results, starts the softmax. */
  private clear(): void {
    const { asm, v, shape } = this;
    const vectors = shape.rowsMax / shape.lanes;
    asm.mov(rax, this.field("rows"));
    asm.add(rax, shape.lanes - 1);
    asm.shr(rax, Math.log2(shape.lanes));
    asm.mov(this.local("vectors"), rax);
    this.planAhead();
    v.scope(() => {
      const value = v.take("clear");
      const fillHere = (): void => {
        const next = asm.here("clear");
        v.store(mem(rdi), value);
        asm.add(rdi, v.vectorBytes);
        asm.dec(rcx);
        asm.jne(next);
      };
      const fill = (start: number, count: number): void => {
        asm.lea(rdi, mem(scratch, { disp: start }));
        asm.mov(rcx.d, count);
        fillHere();
      };
      v.zero(value);
      asm.lea(rdi, mem(scratch, { disp: shape.offsets.queries }));
      asm.imul(rcx, rax, shape.steps);
      fillHere();
      asm.lea(rsi, mem(scratch, { disp: shape.offsets.out }));
      asm.mov(rdx.d, shape.slabs);
      const slab = asm.here("slab");
      asm.mov(rdi, rsi);
      asm.imul(rcx, this.field("rows"), shape.slabBytes / v.vectorBytes);
      fillHere();
      asm.add(rsi, shape.rowsMax * shape.slabBytes);
      asm.dec(rdx.d);
      asm.jne(slab);
      fill(shape.offsets.sum, vectors);
      fill(shape.offsets.rounded, vectors);
      // Rows that are not there see no key.
      fill(shape.offsets.visible, vectors);
      v.fill(value, noScore);
      fill(shape.offsets.max, vectors);
      v.fill(value, Number.NEGATIVE_INFINITY);
      fill(shape.offsets.sink, vectors);
    });
  }

  /** How many bytes of a run each value tile, and each of its steps, asks for. Leaves rax. */
  private planAhead(): void {
    const { asm, shape } = this;
    if (shape.stagesKeys) return;
    // Tiles of a vector of rows, and of what is left of one.
    const tiles = Uint8Array.from({ length: 16 }, (_, left) => Math.ceil(left / valueTileRows));
    asm.push(rax);
    asm.mov(rdx, this.field("rows"));
    asm.mov(rcx, rdx);
    asm.shr(rcx, 4);
    asm.imul(rcx, rcx, Math.ceil(16 / valueTileRows));
    asm.and(rdx, 15);
    asm.lea(rax, mem(asm.constant(tiles)));
    asm.movzx(rdx.d, mem(rax, { index: rdx }).b);
    asm.add(rcx, rdx);
    asm.imul(rcx, rcx, shape.slabs);
    asm.lea(rax, mem(rcx, { disp: runKeys * shape.keyBytes - 1 }));
    asm.xor(rdx.d, rdx.d);
    asm.div(rcx);
    asm.mov(this.local("aheadTile"), rax);
    asm.shr(rax, Math.log2(shape.spanKeys / 2));
    asm.inc(rax);
    asm.mov(this.local("aheadValueStep"), rax);
    asm.pop(rax);
  }

  /** Transposes the queries and notes where each row's results go. */
  private takeRows(): void {
    const { asm, shape } = this;
    const { offsets, vectorBytes, lanes, steps } = shape;
    const [q, out, lse, logits, visible, head] = [r8, r9, r10, r11, r12, r13];
    const [row, target] = [rdx, r14];
    const fields = { q, out, lse, maxLogits: logits, visible, head } as const;
    for (const [name, register] of Object.entries(fields)) {
      asm.mov(register, this.field(name as keyof typeof fields));
    }
    asm.xor(row.d, row.d);
    asm.lea(target, mem(scratch, { disp: offsets.queries }));
    const [next, noSink, sameVector, sameToken] = [
      asm.here("row"),
      ...["noSink", "sameVector", "sameToken"].map((name) => asm.label(name)),
    ];
    asm.imul(rdi, row, rowRecord.bytes);
    asm.add(rdi, scratch);
    const note = (name: keyof typeof rowRecord, from: Gpr) =>
      asm.mov(mem(rdi, { disp: offsets.rows + rowRecord[name] }), from);
    note("out", out);
    note("lse", lse);
    note("maxLogits", logits);
    asm.mov(mem(scratch, { index: row, scale: 4, disp: offsets.visible }).d, visible.d);
    asm.mov(rax, this.field("sinks"));
    asm.test(rax, rax);
    asm.je(noSink);
    asm.mov(rax.d, mem(rax, { index: head, scale: 4 }).d);
    asm.mov(mem(scratch, { index: row, scale: 4, disp: offsets.sink }).d, rax.d);
    asm.bind(noSink);
    asm.mov(rsi, q);
    asm.mov(rdi, target);
    emitTransposedRow(asm, shape, { from: rsi, to: rdi }, shape.dimQk);
    asm.add(target, 4);
    asm.add(q, mem(args, { disp: argumentLayout.qStride }));
    asm.add(out, this.field("outStride"));
    asm.add(lse, this.field("lseStride"));
    asm.add(logits, this.field("lseStride"));
    asm.inc(row.d);
    asm.test(row.d, lanes - 1);
    asm.jne(sameVector);
    asm.add(target, (steps - 1) * vectorBytes);
    asm.bind(sameVector);
    asm.inc(head);
    asm.cmp(head, mem(args, { disp: argumentLayout.group }));
    asm.jne(sameToken);
    asm.xor(head.d, head.d);
    asm.add(visible, mem(args, { disp: argumentLayout.causal }));
    asm.add(q, mem(args, { disp: argumentLayout.qJump }));
    asm.add(out, this.field("outJump"));
    asm.add(lse, this.field("lseJump"));
    asm.add(logits, this.field("lseJump"));
    asm.bind(sameToken);
    asm.cmp(row, this.field("rows"));
    asm.jne(next);
  }

  private eachSpan(body: () => void): void {
    const { asm, shape } = this;
    const [next, end] = [asm.label("span"), asm.label("end")];
    asm.mov(this.local("done"), 0);
    asm.bind(next);
    asm.mov(rax, this.field("keyCount"));
    asm.sub(rax, this.local("done"));
    asm.jle(end);
    asm.mov(rcx.d, shape.spanKeys);
    asm.cmp(rax, rcx);
    asm.cmovg(rax, rcx);
    asm.mov(this.local("count"), rax);
    asm.add(rax, 15);
    asm.and(rax, -16);
    asm.mov(this.local("rounded"), rax);
    body();
    asm.add(this.local("done"), shape.spanKeys);
    asm.jmp(next);
    asm.bind(end);
  }

  /** Addresses of the span's runs, where products read them; values of their own. */
  private findRuns(): void {
    const { asm, shape } = this;
    const { offsets } = shape;
    if (shape.stagesKeys) {
      this.stage("keys", offsets.keys, shape.keyBytes);
      for (const i of [0, 1] as const) {
        asm.lea(rax, mem(scratch, { disp: offsets.keys + i * runKeys * shape.keyBytes }));
        asm.mov(this.local(`keys${i}`), rax);
      }
    } else {
      this.runsOfTable("keys", 0);
      this.runsOfTable("ahead", shape.spanKeys);
    }
    if (!shape.ownValues) return;
    if (shape.isDot) this.stagePairs();
    else this.stage("values", offsets.values, shape.valueBytes);
  }

  /**
   * The two runs from key done + `further` on; where the task's keys end before, the first ones of
   * the task that is likely to come next.
   */
  private runsOfTable(name: "keys" | "ahead", further: number): void {
    const { asm, shape } = this;
    asm.mov(rsi, this.field("keys"));
    asm.mov(rdi, this.field("next"));
    for (const i of [0, 1] as const) {
      const [inside, found] = [asm.label("inside"), asm.label("found")];
      asm.mov(rax, this.local("done"));
      asm.add(rax, further + i * runKeys);
      asm.mov(rcx, rax);
      asm.and(rcx, -runKeys);
      asm.cmp(rcx, this.field("keyCount"));
      asm.jl(inside);
      asm.mov(rcx, mem(rdi, { disp: 8 * i }));
      asm.jmp(found);
      asm.bind(inside);
      asm.mov(rcx, rax);
      asm.and(rcx, runKeys - 1);
      asm.imul(rcx, rcx, shape.keyStride);
      asm.shr(rax, Math.log2(runKeys));
      asm.add(rcx, mem(rsi, { index: rax, scale: 8 }));
      asm.bind(found);
      asm.mov(this.local(`${name}${i}`), rcx);
    }
  }

  /** from = the address of row `key` of the task, in `list`. */
  private findRow(from: Gpr, list: Gpr, key: Gpr, stride: number): void {
    const { asm } = this;
    if (this.shape.source === "rows") {
      asm.mov(from, mem(list, { index: key, scale: 8 }));
      return;
    }
    asm.mov(rax, key);
    asm.shr(rax, Math.log2(runKeys));
    asm.mov(rcx, key);
    asm.and(rcx, runKeys - 1);
    asm.imul(from, rcx, stride);
    asm.add(from, mem(list, { index: rax, scale: 8 }));
  }

  /** Copies the span's rows to scratch memory at `start`. */
  private stage(table: "keys" | "values", start: number, rowBytes: number): void {
    const { asm, v, shape } = this;
    const isKeys = table === "keys";
    const [from, to, key, left, list] = [rsi, rdi, r9, r13, r8];
    asm.mov(list, this.field(table));
    asm.mov(key, this.local("done"));
    asm.mov(left, this.local("count"));
    asm.lea(to, mem(scratch, { disp: start }));
    const next = asm.here("stage");
    this.findRow(from, list, key, isKeys ? shape.keyStride : shape.valueStride);
    const width = isKeys ? shape.dimQk : shape.headDimV;
    const padded = isKeys ? shape.stagedKey : shape.stagedValue;
    if (isKeys && shape.row === "fp8") emitStagedFp8(v, shape, { from, to });
    else emitStagedRow(v, shape, { from, to }, width, padded);
    asm.add(to, rowBytes);
    asm.inc(key);
    asm.dec(left);
    asm.jne(next);
  }

  /** Copies the span's values to scratch memory, two rows interleaved; the last may be alone. */
  private stagePairs(): void {
    const { asm, v, shape } = this;
    const [from, other, to, key, left, list] = [rsi, r10, rdi, r9, r13, r8];
    asm.mov(list, this.field("values"));
    asm.mov(key, this.local("done"));
    asm.mov(left, this.local("count"));
    asm.lea(to, mem(scratch, { disp: shape.offsets.pairs }));
    const [next, alone, end] = [asm.here("pairs"), asm.label("alone"), asm.label("end")];
    this.findRow(from, list, key, shape.valueStride);
    asm.inc(key);
    asm.cmp(left, 1);
    asm.je(alone);
    this.findRow(other, list, key, shape.valueStride);
    asm.inc(key);
    emitPairedRows(v, shape, { from, other, to });
    asm.add(to, shape.slabBytes);
    asm.sub(left, 2);
    asm.jne(next);
    asm.jmp(end);
    asm.bind(alone);
    emitPairedRows(v, shape, { from, other: undefined, to });
    asm.bind(end);
  }

  /** Scores, then weights, of all vectors of rows. */
  private scoreAll(): void {
    const { asm, shape } = this;
    asm.mov(this.local("vector"), 0);
    // The first vectors of rows ask for the next span, evenly, while they read this one.
    if (!shape.stagesKeys) asm.mov(this.local("aheadStep"), 1);
    const [next, end] = [asm.label("vectors"), asm.label("end")];
    asm.bind(next);
    asm.mov(rax, this.local("vector"));
    asm.cmp(rax, this.local("vectors"));
    asm.jge(end);
    this.scoreNext();
    asm.jmp(next);
    asm.bind(end);
  }

  /** The next one or two vectors of rows. */
  private scoreNext(): void {
    const { asm, shape } = this;
    if (scoreVectorsMax(shape) === 1) {
      this.scoreVectors(1);
      return;
    }
    const [two, end] = [asm.label("two"), asm.label("end")];
    asm.mov(rax, this.local("vectors"));
    asm.sub(rax, this.local("vector"));
    asm.cmp(rax, 2);
    asm.jge(two);
    this.scoreVectors(1);
    asm.jmp(end);
    asm.bind(two);
    this.scoreVectors(2);
    asm.bind(end);
  }

  private scoreVectors(vectors: 1 | 2): void {
    const { asm, shape } = this;
    const { keys, queries, scores, ahead, aheadStep } = scoreTile;
    const tileKeys = scoreTileKeys(shape, vectors);
    const blockBytes = shape.steps * shape.vectorBytes;
    asm.mov(this.local("key"), 0);
    const next = asm.here("tile");
    asm.mov(rcx, this.local("key"));
    asm.imul(scores, rcx, shape.vectorBytes);
    asm.lea(scores, mem(scratch, { index: scores, disp: shape.offsets.scores }));
    if (!shape.stagesKeys) {
      // Of the two runs of the next span, scores ask for the first, every other step.
      const bytes = Math.ceil((tileKeys * shape.keyBytes) / shape.steps);
      asm.imul(ahead, rcx, shape.keyBytes / 2);
      asm.add(ahead, this.local("ahead0"));
      asm.imul(aheadStep, this.local("aheadStep"), bytes);
    }
    asm.mov(rax, rcx);
    asm.shr(rax, Math.log2(runKeys));
    asm.and(rcx, runKeys - 1);
    asm.imul(rcx, rcx, shape.keyBytes);
    const disp = shape.offsets.locals + 8 * localNames.indexOf("keys0");
    asm.mov(keys, mem(scratch, { index: rax, scale: 8, disp }));
    asm.add(keys, rcx);
    asm.imul(queries, this.local("vector"), blockBytes);
    asm.lea(queries, mem(scratch, { index: queries, disp: shape.offsets.queries }));
    emitScoreTile(asm, shape, vectors);
    asm.add(this.local("key"), tileKeys);
    asm.mov(rcx, this.local("key"));
    asm.cmp(rcx, this.local("rounded"));
    asm.jb(next);
    if (!shape.stagesKeys) asm.mov(this.local("aheadStep"), 0);
    for (let i = 0; i < vectors; i++) this.weigh(i);
  }

  /** Weights of the current vector of rows, whose scores are the `index`-th; moves on to the next. */
  private weigh(index: number): void {
    const { asm, v, shape } = this;
    const { scores, weights, vector, count, done } = softmaxArguments;
    const { spanKeys, vectorBytes, isDot, offsets } = shape;
    const seen = asm.label("seen");
    const start = offsets.scores + index * spanKeys * vectorBytes;
    asm.imul(vector, this.local("vector"), vectorBytes);
    asm.add(vector, scratch);
    asm.lea(scores, mem(scratch, { disp: start }));
    asm.mov(count, this.local("rounded"));
    asm.mov(done, this.local("done"));
    asm.lea(rdx, mem(done, { index: count }));
    asm.cmp(rdx, this.field("visible"));
    asm.jle(seen);
    emitMask(v, shape.offsets.visible);
    asm.bind(seen);
    asm.mov(count, this.local("count"));
    asm.lea(scores, mem(scratch, { disp: start }));
    const weightBytes = (isDot ? spanKeys / 2 : spanKeys) * vectorBytes;
    asm.imul(weights, this.local("vector"), weightBytes);
    asm.lea(weights, mem(scratch, { index: weights, disp: offsets.weights }));
    emitSoftmax(v, shape);
    asm.add(this.local("vector"), 1);
  }

  /** Results = factor * results + weights * values, slab by slab. */
  private sumValues(tiles: Label): void {
    const { asm, shape } = this;
    const { isDot, offsets, spanKeys, slabBytes, slabs, rowsMax } = shape;
    asm.mov(this.local("slabOut"), 0);
    const start = isDot ? offsets.pairs : shape.ownValues ? offsets.values : offsets.keys;
    if (shape.valuesInRuns) asm.xor(rax.d, rax.d);
    else asm.lea(rax, mem(scratch, { disp: start }));
    asm.mov(this.local("slab"), rax);
    if (!shape.stagesKeys) {
      asm.mov(rax, this.local("ahead1"));
      asm.mov(this.local("aheadValue"), rax);
    }
    const [next, rows, end] = [asm.here("slab"), asm.label("rows"), asm.label("end")];
    asm.mov(this.local("row"), 0);
    asm.bind(rows);
    asm.mov(rax, this.local("row"));
    asm.cmp(rax, this.field("rows"));
    asm.jge(end);
    this.sumTile(tiles);
    asm.jmp(rows);
    asm.bind(end);
    const inRows = isDot ? 2 * shape.slabDims : slabBytes;
    const isPaired = isDot && !shape.valuesInRuns;
    asm.add(this.local("slab"), isPaired ? (spanKeys / 2) * slabBytes : inRows);
    asm.add(this.local("slabOut"), rowsMax * slabBytes);
    asm.mov(rax, this.local("slabOut"));
    asm.cmp(rax, slabs * rowsMax * slabBytes);
    asm.jb(next);
  }

  /** The next tile of rows, from row rax on, as tall as makes a vector's tiles equal. */
  private sumTile(table: Label): void {
    const { asm, shape } = this;
    const { weights, values, out, factors, steps, ahead, aheadStep, runs, slab } = valueTile;
    const { lanes, vectorBytes, spanKeys, isDot, offsets } = shape;
    const [row, rows] = [rax, rsi];
    // Rows of this vector from here on, at most a vector of them.
    asm.mov(rcx, row);
    asm.and(rcx, lanes - 1);
    asm.mov(rows.d, lanes);
    asm.sub(rows, rcx);
    asm.mov(rdx, this.field("rows"));
    asm.sub(rdx, row);
    asm.cmp(rows, rdx);
    asm.cmovg(rows, rdx);
    asm.lea(rdx, mem(asm.constant(tileHeights(lanes))));
    asm.movzx(rows.d, mem(rdx, { index: rows }).b);
    asm.mov(weights, row);
    asm.shr(weights, Math.log2(lanes));
    asm.imul(weights, weights, (isDot ? spanKeys / 2 : spanKeys) * vectorBytes);
    asm.lea(weights, mem(weights, { index: rcx, scale: 4 }));
    asm.lea(weights, mem(scratch, { index: weights, disp: offsets.weights }));
    asm.lea(factors, mem(scratch, { index: row, scale: 4, disp: offsets.factor }));
    asm.imul(out, row, shape.slabBytes);
    asm.add(out, this.local("slabOut"));
    asm.lea(out, mem(scratch, { index: out, disp: offsets.out }));
    asm.add(this.local("row"), rows);
    asm.lea(rdx, mem(table));
    asm.movsxd(rax, mem(rdx, { index: rows, scale: 4 }).d);
    asm.lea(rdx, mem(this.base));
    asm.add(rax, rdx);
    asm.mov(shape.valuesInRuns ? slab : values, this.local("slab"));
    asm.mov(steps, this.local("count"));
    if (shape.valuesInRuns) {
      asm.lea(runs, this.local("keys0"));
    } else if (isDot) {
      asm.inc(steps);
      asm.shr(steps, 1);
    }
    if (!shape.stagesKeys) {
      // The steps of all value tiles together ask for the second run.
      asm.mov(ahead, this.local("aheadValue"));
      asm.mov(aheadStep, this.local("aheadTile"));
      asm.add(this.local("aheadValue"), aheadStep);
      asm.mov(aheadStep, this.local("aheadValueStep"));
    }
    asm.call(rax);
  }
}

/** How tall the next tile is with so many rows of a vector left: tiles as few as can be, and equal. */
function tileHeights(lanes: number): Uint8Array {
  const most = lanes === 16 ? valueTileRows : 4;
  return Uint8Array.from({ length: lanes + 1 }, (_, left) =>
    left === 0 ? 0 : Math.ceil(left / Math.ceil(left / most)),
  );
}
