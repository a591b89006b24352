/**
 * @file The program of the backward pass, of one sequence and key head, see `prefill-backward.ts`.
 *
 *     sums of dk, dv = 0                        float32 in memory, [span][slab][64 keys]
 *     for each chunk of rows                    up to 128: queries and dOut transposed, and in pairs
 *       for each span of 64 keys
 *         for each vector of rows
 *           scores and dp, lanes being rows; p and ds from them
 *         dq += ds k; dv += p^T dOut; dk += ds^T q      the value tiles of the forward pass
 *       write dq
 *     write dk, dv
 *
 * p and ds are stored twice where pairs are multiplied: as pairs of keys for dq, as pairs of rows
 * for dk and dv. Rows and keys that are not there are zeros, and so contribute nothing.
 */
import {
  Assembler,
  type Gpr,
  type Label,
  type Mem,
  mem,
  psFromBf16,
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
  reduceAddPs,
  rsi,
  type Vec,
  VectorBuilder,
} from "../codegen/index.ts";
import {
  type argumentNames,
  type GradientShape,
  gradientArguments,
  gradientTask,
  type localNames,
  locals,
  spanKeys,
  type taskNames,
} from "./x86-flash-gradient-layout.ts";
import { emitBf16Slab } from "./x86-flash-results.ts";
import {
  emitExp2,
  emitMask,
  loadExp2,
  loadPairOrder,
  scratch,
  softmaxArguments,
} from "./x86-flash-softmax.ts";
import { emitPairedRows, emitStagedRow, emitTransposedRow } from "./x86-flash-stage.ts";
import {
  emitScoreTile,
  emitValueTile,
  type ScoreTileShape,
  scoreTile,
  scoreTileKeys,
  type ValueTileShape,
  valueTile,
} from "./x86-flash-tiles.ts";

/** Emits the program. */
export function emitGradientProgram(shape: GradientShape): { code: Uint8Array; entry: number } {
  return new GradientProgram(shape).emit();
}

/** A product that adds to sums, by tiles of rows of a vector (or of as many keys). */
interface Sum {
  readonly tiles: readonly Label[];
  readonly slabs: number;
  readonly slabStride: number;
  readonly groups: Mem | number;
  readonly weights: number;
  readonly weightGroup: number;
  readonly weightRow: number;
  readonly values: number;
  readonly valueSlab: number;
  /** Steps of a vector of rows where `Mem`, of all of them. */
  readonly steps: Mem | number;
}

class GradientProgram {
  private readonly asm: Assembler = new Assembler();
  private readonly v: VectorBuilder;
  private readonly shape: GradientShape;
  /** Heights of the tiles of a vector of rows. */
  private readonly heights: readonly number[];
  private readonly ones: Label;

  constructor(shape: GradientShape) {
    this.shape = shape;
    this.v = new VectorBuilder(this.asm, shape.isa);
    this.heights = shape.lanes === 16 ? [6, 5, 5] : [4, 4];
    this.ones = this.asm.constant(new Float32Array(8).fill(1));
  }

  emit(): { code: Uint8Array; entry: number } {
    const { asm, v, shape } = this;
    const { isDot, keyRowBytes, rowBytesK, rowBytesV } = shape;
    const byKey = { weightStep: 4, weightRow: keyRowBytes };
    const dqTiles = isDot
      ? this.emitTiles({ valueBytes: 0 })
      : this.emitTiles({ valueBytes: rowBytesK, weightStep: keyRowBytes, weightRow: 4 });
    const dkTiles = this.emitTiles({ valueBytes: rowBytesK, ...byKey });
    const dvTiles = isDot ? dkTiles : this.emitTiles({ valueBytes: rowBytesV, ...byKey });
    asm.align(64);
    const entry = asm.offset;
    v.kernel([rbx, rbp, r12, r13, r14, r15], () => {
      asm.mov(r15, rdi);
      asm.mov(scratch, rdx);
      asm.shl(rsi, Math.log2(gradientTask.bytes));
      asm.add(rsi, this.argument("tasks"));
      asm.mov(rbp, rsi);
      this.start();
      this.eachChunk(() => {
        this.clearChunk();
        this.takeRows();
        this.eachSpan(() => {
          this.stageSpan();
          this.eachVector(() => {
            this.emitScores();
            this.hide();
            this.differentiate();
          });
          this.sumAll(dqTiles, dkTiles, dvTiles);
        });
        this.writeQueries();
      });
      this.writeKeys("dk", 0, shape.dimQk);
      this.writeKeys("dv", shape.slabsK, shape.headDimV);
    });
    return { code: asm.finish(), entry };
  }

  private emitTiles(strides: Pick<ValueTileShape, "valueBytes" | "weightStep" | "weightRow">) {
    const { isa, isDot, vectorBytes, slabBytes } = this.shape;
    const tile = { isa, isDot, vectorBytes, slabBytes, stagesKeys: true, ...strides };
    const labels = new Map<number, Label>();
    for (const rows of new Set(this.heights)) labels.set(rows, emitValueTile(this.asm, tile, rows));
    return this.heights.map((rows) => labels.get(rows)!);
  }

  private argument(name: (typeof argumentNames)[number]): Mem {
    return mem(r15, { disp: gradientArguments[name] });
  }

  private field(name: (typeof taskNames)[number]): Mem {
    return mem(rbp, { disp: gradientTask[name] });
  }

  private local(name: (typeof localNames)[number]): Mem {
    return mem(scratch, { disp: this.shape.offsets.locals + locals[name] });
  }

  /** Bytes of the sums of a span. */
  private get spanBytes(): number {
    const { slabsK, slabsV, slabBytes } = this.shape;
    return (slabsK + slabsV) * spanKeys * slabBytes;
  }

  /** Fills `vectors` vectors from rdi on with `value`. */
  private fill(value: Vec, vectors: Gpr): void {
    const { asm, v } = this;
    v.loop(vectors, () => {
      v.store(mem(rdi), value);
      asm.add(rdi, v.vectorBytes);
    });
  }

  private start(): void {
    const { asm, v } = this;
    for (const name of ["q", "dOut", "out", "lse", "dq", "visible"] as const) {
      asm.mov(rax, this.field(name));
      asm.mov(this.local(name), rax);
    }
    asm.mov(this.local("head"), 0);
    asm.mov(rax, this.field("rows"));
    asm.mov(this.local("left"), rax);
    asm.mov(rcx, this.field("keys"));
    asm.add(rcx, spanKeys - 1);
    asm.shr(rcx, Math.log2(spanKeys));
    asm.imul(rcx, rcx, this.spanBytes / v.vectorBytes);
    asm.mov(rdi, this.field("sums"));
    v.scope(() => {
      const zero = v.take("zero");
      v.zero(zero);
      this.fill(zero, rcx);
    });
  }

  private eachChunk(body: () => void): void {
    const { asm, shape } = this;
    const [next, end] = [asm.here("chunk"), asm.label("end")];
    asm.mov(rax, this.local("left"));
    asm.test(rax, rax);
    asm.je(end);
    asm.mov(rcx.d, shape.rowsMax);
    asm.cmp(rax, rcx);
    asm.cmovg(rax, rcx);
    asm.mov(this.local("rows"), rax);
    asm.sub(this.local("left"), rax);
    asm.add(rax, shape.lanes - 1);
    asm.shr(rax, Math.log2(shape.lanes));
    asm.mov(this.local("vectors"), rax);
    body();
    asm.jmp(next);
    asm.bind(end);
  }

  /** Zeros wherever rows of the chunk will be, or will be missing. */
  private clearChunk(): void {
    const { asm, v, shape } = this;
    const { offsets, rowsMax, vectorBytes } = shape;
    v.scope(() => {
      const zero = v.take("zero");
      v.zero(zero);
      const clear = (start: number, bytes: number): void => {
        asm.lea(rdi, mem(scratch, { disp: start }));
        asm.mov(rcx.d, bytes / vectorBytes);
        this.fill(zero, rcx);
      };
      const vectors = rowsMax / shape.lanes;
      for (const name of ["visible", "lse", "delta"] as const) clear(offsets[name], 4 * rowsMax);
      clear(offsets.queries, vectors * shape.stepsK * vectorBytes);
      clear(offsets.dOuts, vectors * shape.stepsV * vectorBytes);
      clear(offsets.queryRows, rowsMax * shape.rowBytesK);
      clear(offsets.dOutRows, rowsMax * shape.rowBytesV);
      clear(offsets.dq, shape.slabsK * rowsMax * shape.slabBytes);
    });
  }

  /** The chunk's rows: transposed, staged, in pairs; delta; lse in base 2; where dq goes. */
  private takeRows(): void {
    const { asm, shape } = this;
    const { offsets } = shape;
    const [q, dOut, out, lse, dq, head, row] = [r8, r9, r10, r11, r12, r13, r14];
    const kept = { q, dOut, out, lse, dq, head } as const;
    for (const [name, register] of Object.entries(kept)) {
      asm.mov(register, this.local(name as keyof typeof kept));
    }
    asm.mov(rax, this.local("visible"));
    asm.mov(this.local("first"), rax);
    asm.xor(row.d, row.d);
    const next = asm.here("row");
    asm.mov(mem(scratch, { index: row, scale: 8, disp: offsets.dqPlaces }), dq);
    asm.mov(rax, this.local("visible"));
    asm.mov(mem(scratch, { index: row, scale: 4, disp: offsets.visible }).d, rax.d);
    this.takeLse(lse, row);
    this.takeRow(q, row, "queries", shape.stepsK, shape.dimQk);
    this.takeRow(dOut, row, "dOuts", shape.stepsV, shape.headDimV);
    this.stageRow(q, row, offsets.queryRows, shape.rowBytesK, shape.dimQk, shape.slabsK);
    this.stageRow(dOut, row, offsets.dOutRows, shape.rowBytesV, shape.headDimV, shape.slabsV);
    this.takeDelta(dOut, out, row);
    this.nextRow(kept);
    asm.inc(row);
    asm.cmp(row, this.local("rows"));
    asm.jne(next);
    for (const [name, register] of Object.entries(kept)) {
      asm.mov(this.local(name as keyof typeof kept), register);
    }
    this.findLimit(head);
    if (!shape.isDot) return;
    const { queryRows, dOutRows, queryPairs, dOutPairs } = offsets;
    this.pairRows(queryRows, shape.rowBytesK, shape.slabsK, queryPairs, shape.rowsMax);
    this.pairRows(dOutRows, shape.rowBytesV, shape.slabsV, dOutPairs, shape.rowsMax);
  }

  /** Keys that the chunk's last row sees, within the sequence: `visible` has moved on behind it. */
  private findLimit(head: Gpr): void {
    const { asm } = this;
    const sameToken = asm.label("sameToken");
    asm.mov(rax, this.local("visible"));
    asm.test(head, head);
    asm.jne(sameToken);
    asm.sub(rax, this.argument("causal"));
    asm.bind(sameToken);
    asm.mov(rcx, this.field("keys"));
    asm.cmp(rax, rcx);
    asm.cmovg(rax, rcx);
    asm.mov(this.local("limit"), rax);
  }

  private takeLse(lse: Gpr, row: Gpr): void {
    const { asm, v, shape } = this;
    v.scope(() => {
      const [value, factor] = v.take("lse", 2);
      v.fill(factor, Math.LOG2E);
      asm.vmulss(value.x, factor.x, mem(lse));
      asm.vmovss(mem(scratch, { index: row, scale: 4, disp: shape.offsets.lse }), value.x);
    });
  }

  /** Transposes a row to its lane. */
  private takeRow(
    from: Gpr,
    row: Gpr,
    name: "queries" | "dOuts",
    steps: number,
    dim: number,
  ): void {
    const { asm, shape } = this;
    asm.mov(rax, row);
    asm.shr(rax, Math.log2(shape.lanes));
    asm.imul(rax, rax, steps * shape.vectorBytes);
    asm.mov(rcx, row);
    asm.and(rcx, shape.lanes - 1);
    asm.lea(rdi, mem(rax, { index: rcx, scale: 4 }));
    asm.lea(rdi, mem(scratch, { index: rdi, disp: shape.offsets[name] }));
    asm.mov(rsi, from);
    emitTransposedRow(asm, shape, { from: rsi, to: rdi }, dim);
  }

  private stageRow(
    from: Gpr,
    row: Gpr,
    start: number,
    rowBytes: number,
    dim: number,
    slabs: number,
  ): void {
    const { asm, v, shape } = this;
    asm.imul(rdi, row, rowBytes);
    asm.lea(rdi, mem(scratch, { index: rdi, disp: start }));
    emitStagedRow(v, shape, { from, to: rdi }, dim, slabs * shape.slabDims);
  }

  /** delta of the row = the dot product of its results and their gradients. */
  private takeDelta(dOut: Gpr, out: Gpr, row: Gpr): void {
    const { asm, v, shape } = this;
    v.scope(() => {
      const [sum, x, y] = v.take("delta", 3);
      v.zero(sum);
      v.eachVector(shape.headDimV, (first, tail) => {
        psFromBf16(v, x, mem(dOut, { disp: 2 * first }), tail);
        psFromBf16(v, y, mem(out, { disp: 2 * first }), tail);
        v.fma(sum, x, y);
      });
      reduceAddPs(v, sum, sum);
      asm.vmovss(mem(scratch, { index: row, scale: 4, disp: shape.offsets.delta }), sum.x);
    });
  }

  private nextRow(kept: Readonly<Record<"q" | "dOut" | "out" | "lse" | "dq" | "head", Gpr>>): void {
    const { asm } = this;
    const names = ["q", "dOut", "out", "lse", "dq"] as const;
    const sameToken = asm.label("sameToken");
    for (const name of names) asm.add(kept[name], this.argument(`${name}Stride`));
    asm.inc(kept.head);
    asm.cmp(kept.head, this.argument("group"));
    asm.jne(sameToken);
    asm.xor(kept.head.d, kept.head.d);
    for (const name of names) asm.add(kept[name], this.argument(`${name}Jump`));
    asm.mov(rax, this.argument("causal"));
    asm.add(this.local("visible"), rax);
    asm.bind(sameToken);
  }

  /** Interleaves staged rows two by two. */
  private pairRows(from: number, rowBytes: number, slabs: number, to: number, rows: number): void {
    const { asm, v, shape } = this;
    const width = slabs * shape.slabDims;
    const pairs = { ...shape, stagedValue: width, headDimV: width, spanKeys: rows };
    asm.lea(rsi, mem(scratch, { disp: from }));
    asm.lea(rdi, mem(scratch, { disp: to }));
    asm.mov(rcx.d, rows / 2);
    v.loop(rcx, () => {
      asm.lea(rdx, mem(rsi, { disp: rowBytes }));
      emitPairedRows(v, pairs, { from: rsi, other: rdx, to: rdi });
      asm.add(rsi, 2 * rowBytes);
      asm.add(rdi, shape.slabBytes);
    });
  }

  private eachSpan(body: () => void): void {
    const { asm } = this;
    const [next, end] = [asm.label("span"), asm.label("end")];
    asm.mov(this.local("done"), 0);
    asm.mov(rax, this.field("sums"));
    asm.mov(this.local("sums"), rax);
    asm.bind(next);
    asm.mov(rax, this.local("done"));
    asm.cmp(rax, this.local("limit"));
    asm.jge(end);
    asm.mov(rcx, this.field("keys"));
    asm.sub(rcx, rax);
    asm.mov(rdx.d, spanKeys);
    asm.cmp(rcx, rdx);
    asm.cmovg(rcx, rdx);
    asm.mov(this.local("count"), rcx);
    body();
    asm.add(this.local("done"), spanKeys);
    asm.add(this.local("sums"), this.spanBytes);
    asm.jmp(next);
    asm.bind(end);
  }

  /** The span's keys and values, zeros behind the last; keys in pairs. */
  private stageSpan(): void {
    const { shape } = this;
    const { keyRows, valueRows, keyPairs } = shape.offsets;
    this.stageRows("k", keyRows, shape.rowBytesK, shape.dimQk, shape.slabsK);
    this.stageRows("v", valueRows, shape.rowBytesV, shape.headDimV, shape.slabsV);
    if (shape.isDot) this.pairRows(keyRows, shape.rowBytesK, shape.slabsK, keyPairs, spanKeys);
  }

  private stageRows(
    name: "k" | "v",
    start: number,
    rowBytes: number,
    dim: number,
    slabs: number,
  ): void {
    const { asm, v, shape } = this;
    const whole = asm.label("whole");
    const stride = this.argument(`${name}Stride`);
    asm.cmp(this.local("count"), spanKeys);
    asm.je(whole);
    v.scope(() => {
      const zero = v.take("zero");
      v.zero(zero);
      asm.lea(rdi, mem(scratch, { disp: start }));
      asm.mov(rcx.d, (spanKeys * rowBytes) / v.vectorBytes);
      this.fill(zero, rcx);
    });
    asm.bind(whole);
    asm.mov(rsi, this.local("done"));
    asm.imul(rsi, stride);
    asm.add(rsi, this.field(name));
    asm.lea(rdi, mem(scratch, { disp: start }));
    asm.mov(rcx, this.local("count"));
    v.loop(rcx, () => {
      emitStagedRow(v, shape, { from: rsi, to: rdi }, dim, slabs * shape.slabDims);
      asm.add(rsi, stride);
      asm.add(rdi, rowBytes);
    });
  }

  private eachVector(body: () => void): void {
    const { asm } = this;
    asm.mov(this.local("vector"), 0);
    const next = asm.here("vector");
    body();
    asm.mov(rax, this.local("vector"));
    asm.inc(rax);
    asm.mov(this.local("vector"), rax);
    asm.cmp(rax, this.local("vectors"));
    asm.jb(next);
  }

  /** Scores of the vector's rows against the span, and dp. */
  private emitScores(): void {
    const { asm, shape } = this;
    const { offsets, stepsK, stepsV, rowBytesK, rowBytesV } = shape;
    asm.mov(this.local("key"), 0);
    const next = asm.here("tile");
    this.scoreTileOf(offsets.queries, stepsK, offsets.keyRows, rowBytesK, offsets.scores);
    this.scoreTileOf(offsets.dOuts, stepsV, offsets.valueRows, rowBytesV, offsets.dp);
    asm.mov(rax, this.local("key"));
    asm.add(rax, scoreTileKeys(shape, 1));
    asm.mov(this.local("key"), rax);
    asm.cmp(rax, spanKeys);
    asm.jb(next);
  }

  private scoreTileOf(
    queries: number,
    steps: number,
    rows: number,
    rowBytes: number,
    scores: number,
  ): void {
    const { asm, shape } = this;
    const { isa, isDot, vectorBytes } = shape;
    const tile: ScoreTileShape = {
      ...{ isa, isDot, vectorBytes, steps, spanKeys },
      ...{ keyBytes: rowBytes, stagesKeys: true },
    };
    asm.imul(scoreTile.queries, this.local("vector"), steps * vectorBytes);
    asm.lea(scoreTile.queries, mem(scratch, { index: scoreTile.queries, disp: queries }));
    asm.mov(rax, this.local("key"));
    asm.imul(scoreTile.keys, rax, rowBytes);
    asm.lea(scoreTile.keys, mem(scratch, { index: scoreTile.keys, disp: rows }));
    asm.imul(scoreTile.scores, rax, vectorBytes);
    asm.lea(scoreTile.scores, mem(scratch, { index: scoreTile.scores, disp: scores }));
    emitScoreTile(asm, tile, 1);
  }

  /** Scores of keys that a row does not see become -infinity. */
  private hide(): void {
    const { asm, v, shape } = this;
    const { scores, vector, count, done } = softmaxArguments;
    const seen = asm.label("seen");
    asm.mov(done, this.local("done"));
    asm.lea(rcx, mem(done, { disp: spanKeys }));
    asm.cmp(rcx, this.local("first"));
    asm.jle(seen);
    asm.imul(vector, this.local("vector"), shape.vectorBytes);
    asm.add(vector, scratch);
    asm.lea(scores, mem(scratch, { disp: shape.offsets.scores }));
    asm.mov(count.d, spanKeys);
    emitMask(v, shape.offsets.visible);
    asm.bind(seen);
  }

  /** p = 2^(scale2 score - lse) and ds = scale p (dp - delta), stored for the three products. */
  private differentiate(): void {
    const { asm, v, shape } = this;
    const { offsets, vectorBytes, keyRowBytes, isDot } = shape;
    const [scores, dp, p, ds, pairs, vector] = [rsi, rdi, r8, r9, r10, rdx];
    asm.mov(rax, this.local("vector"));
    asm.imul(vector, rax, vectorBytes);
    asm.add(vector, scratch);
    asm.lea(scores, mem(scratch, { disp: offsets.scores }));
    asm.lea(dp, mem(scratch, { disp: offsets.dp }));
    asm.imul(rcx, rax, isDot ? vectorBytes / 2 : vectorBytes);
    asm.lea(p, mem(scratch, { index: rcx, disp: offsets.p }));
    asm.lea(ds, mem(scratch, { index: rcx, disp: offsets.ds }));
    asm.imul(rcx, rax, (spanKeys * vectorBytes) / 2);
    asm.lea(pairs, mem(scratch, { index: rcx, disp: offsets.dsPairs }));
    asm.mov(rcx.d, spanKeys / 2);
    v.scope(() => {
      const constants = loadExp2(v);
      const [lse, delta, scale, scale2] = v.take("differentiate", 4);
      const order = isDot ? loadPairOrder(v) : undefined;
      v.load(lse, mem(vector, { disp: offsets.lse }));
      v.load(delta, mem(vector, { disp: offsets.delta }));
      v.broadcast(scale, this.argument("scale"));
      v.broadcast(scale2, this.argument("scale2"));
      v.loop(rcx, () => {
        const values = v.take("values", 2);
        values.forEach((value, i) => {
          v.load(value, mem(scores, { disp: i * vectorBytes }));
          asm.vfmsub213ps(value, scale2, lse);
          emitExp2(v, value, constants);
          this.storeRow(mem(p, { disp: i * keyRowBytes }), value);
          v.scope(() => {
            const other = v.take("dp");
            v.load(other, mem(dp, { disp: i * vectorBytes }));
            asm.vsubps(other, other, delta);
            asm.vmulps(value, value, other);
          });
          asm.vmulps(value, value, scale);
          this.storeRow(mem(ds, { disp: i * keyRowBytes }), value);
        });
        if (order) {
          asm.vcvtne2ps2bf16(values[0], values[1], values[0]);
          asm.vpermw(values[0], order, values[0]);
          v.store(mem(pairs), values[0]);
          asm.add(pairs, vectorBytes);
        }
        v.release(...values);
        for (const walker of [scores, dp]) asm.add(walker, 2 * vectorBytes);
        for (const walker of [p, ds]) asm.add(walker, 2 * keyRowBytes);
      });
    });
  }

  /** A key's vector of rows: as bf16, so that two rows make a pair, or as it is. */
  private storeRow(place: Mem, value: Vec): void {
    const { asm, v, shape } = this;
    if (!shape.isDot) {
      v.store(place, value);
      return;
    }
    v.scope(() => {
      const narrow = v.take("narrow");
      asm.vcvtneps2bf16(narrow.y, value);
      v.store(place, narrow.y);
    });
  }

  private sumAll(dq: readonly Label[], dk: readonly Label[], dv: readonly Label[]): void {
    const { asm, shape } = this;
    const { offsets, isDot, slabBytes, slabsK, slabsV, rowsMax, lanes, keyRowBytes } = shape;
    const pairSlab = (rows: number) => (isDot ? (rows / 2) * slabBytes : slabBytes);
    asm.lea(rax, mem(scratch, { disp: offsets.dq }));
    asm.mov(this.local("target"), rax);
    this.emitSum({
      ...{ tiles: dq, slabs: slabsK, slabStride: rowsMax * slabBytes },
      groups: this.local("vectors"),
      weights: isDot ? offsets.dsPairs : offsets.ds,
      weightGroup: isDot ? (spanKeys * shape.vectorBytes) / 2 : 4 * lanes,
      weightRow: 4,
      values: isDot ? offsets.keyPairs : offsets.keyRows,
      valueSlab: pairSlab(spanKeys),
      steps: isDot ? spanKeys / 2 : spanKeys,
    });
    const byKey = {
      slabStride: spanKeys * slabBytes,
      groups: spanKeys / lanes,
      weightGroup: lanes * keyRowBytes,
      weightRow: keyRowBytes,
      valueSlab: pairSlab(rowsMax),
      steps: this.local("vectors"),
    };
    asm.mov(rax, this.local("sums"));
    asm.mov(this.local("target"), rax);
    const queries = isDot ? offsets.queryPairs : offsets.queryRows;
    this.emitSum({ ...byKey, tiles: dk, slabs: slabsK, weights: offsets.ds, values: queries });
    asm.mov(rax, this.local("sums"));
    asm.add(rax, slabsK * spanKeys * slabBytes);
    asm.mov(this.local("target"), rax);
    const dOuts = isDot ? offsets.dOutPairs : offsets.dOutRows;
    this.emitSum({ ...byKey, tiles: dv, slabs: slabsV, weights: offsets.p, values: dOuts });
  }

  private emitSum(sum: Sum): void {
    const { asm, shape } = this;
    const { weights, values, out, factors, steps } = valueTile;
    asm.mov(this.local("slab"), 0);
    asm.lea(rax, mem(scratch, { disp: sum.values }));
    asm.mov(this.local("values"), rax);
    const nextSlab = asm.here("slab");
    asm.mov(this.local("group"), 0);
    const nextGroup = asm.here("group");
    let row = 0;
    sum.tiles.forEach((tile, i) => {
      asm.mov(rax, this.local("group"));
      asm.imul(weights, rax, sum.weightGroup);
      const disp = sum.weights + row * sum.weightRow;
      asm.lea(weights, mem(scratch, { index: weights, disp }));
      asm.imul(out, rax, shape.lanes * shape.slabBytes);
      asm.add(out, this.local("target"));
      if (row > 0) asm.add(out, row * shape.slabBytes);
      asm.lea(factors, mem(this.ones));
      asm.mov(values, this.local("values"));
      if (typeof sum.steps === "number") {
        asm.mov(steps.d, sum.steps);
      } else {
        asm.imul(steps, sum.steps, shape.isDot ? shape.lanes / 2 : shape.lanes);
      }
      asm.call(tile);
      row += this.heights[i];
    });
    asm.mov(rax, this.local("group"));
    asm.inc(rax);
    asm.mov(this.local("group"), rax);
    if (typeof sum.groups === "number") asm.cmp(rax, sum.groups);
    else asm.cmp(rax, sum.groups);
    asm.jb(nextGroup);
    asm.add(this.local("target"), sum.slabStride);
    asm.add(this.local("values"), sum.valueSlab);
    asm.mov(rax, this.local("slab"));
    asm.inc(rax);
    asm.mov(this.local("slab"), rax);
    asm.cmp(rax, sum.slabs);
    asm.jb(nextSlab);
  }

  /** Stores `dim` dimensions of float32 at rsi, slabs `slabStride` apart, as bf16 at rdi. */
  private storeBf16(dim: number, slabStride: number): void {
    const { asm, v, shape } = this;
    for (let first = 0; first < dim; first += shape.slabDims) {
      const dims = Math.min(shape.slabDims, dim - first);
      const places = { source: rsi, target: rdi };
      emitBf16Slab(v, shape, places, dims, (to, place) => v.load(to, place));
      asm.add(rsi, slabStride);
      asm.add(rdi, 2 * shape.slabDims);
    }
  }

  private writeQueries(): void {
    const { asm, shape } = this;
    const { offsets, rowsMax, slabBytes } = shape;
    asm.xor(rdx.d, rdx.d);
    const next = asm.here("row");
    asm.imul(rsi, rdx, slabBytes);
    asm.lea(rsi, mem(scratch, { index: rsi, disp: offsets.dq }));
    asm.mov(rdi, mem(scratch, { index: rdx, scale: 8, disp: offsets.dqPlaces }));
    this.storeBf16(shape.dimQk, rowsMax * slabBytes);
    asm.inc(rdx);
    asm.cmp(rdx, this.local("rows"));
    asm.jb(next);
  }

  private writeKeys(name: "dk" | "dv", slab: number, dim: number): void {
    const { asm, shape } = this;
    const { slabBytes } = shape;
    const [next, end] = [asm.label("key"), asm.label("end")];
    const [key, target] = [rdx, r8];
    asm.xor(key.d, key.d);
    asm.mov(target, this.field(name));
    asm.bind(next);
    asm.cmp(key, this.field("keys"));
    asm.jae(end);
    asm.mov(rax, key);
    asm.shr(rax, Math.log2(spanKeys));
    asm.imul(rsi, rax, this.spanBytes);
    asm.add(rsi, this.field("sums"));
    asm.mov(rax, key);
    asm.and(rax, spanKeys - 1);
    asm.imul(rax, rax, slabBytes);
    asm.lea(rsi, mem(rsi, { index: rax, disp: slab * spanKeys * slabBytes }));
    asm.mov(rdi, target);
    this.storeBf16(dim, spanKeys * slabBytes);
    asm.add(target, this.argument(`${name}Stride`));
    asm.inc(key);
    asm.jmp(next);
    asm.bind(end);
  }
}
