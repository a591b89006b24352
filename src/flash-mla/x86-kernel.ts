/**
 * @file The machine-code kernel: attention of a run of groups of one sequence.
 *
 * A task keeps a record per group in its scratch memory. For each block of 64 keys: scores of all
 * groups, 4 keys at a time, so that keys stay in the nearest cache while groups pass over them; the
 * softmax of each group so far (Milakov and Gimelshein, "Online normalizer calculation for
 * softmax", 2018); then the values, 4 vectors of dimensions at a time. `out` itself holds the sums.
 * At the end they are divided by the total.
 *
 * Scores of a group lie as [64 keys][R rows], R rows being a quarter of a vector: a vector is 4
 * keys of each row, so that maximum and sum over keys are vertical until the last two steps.
 *
 * What a query does not see is never used: scores beyond are replaced by -infinity before the
 * softmax, and the loops over values end with the last key that the group sees.
 */
import {
  Assembler,
  expPs,
  type Gpr,
  type Isa,
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
  type Vec,
  VectorBuilder,
} from "../codegen/index.ts";
import { pageTokens } from "./types.ts";
import { lnPs } from "./x86-log.ts";
import {
  cacheBytes,
  emitScoreTile,
  emitValueTile,
  groupRows,
  type MlaKernelSpec,
  tileKeys,
  tileVectors,
  valueTile,
} from "./x86-tiles.ts";

/** Byte offsets of the kernel's arguments. */
export const argumentLayout = { tasks: 0, kvCache: 8, softmaxScale: 16, bytes: 24 } as const;

/** Byte offsets of a task record; 64 bits each, the last four are small integers. */
export const taskLayout = {
  /** Addresses of the sequence's page ids and of the first group's rows. */
  blockTable: 0,
  q: 8,
  out: 16,
  lse: 24,
  /** Keys that the first group sees; may be negative. */
  visible: 32,
  /** Which group of its query the first is. */
  part: 40,
  groups: 48,
  blocks: 56,
  bytes: 64,
} as const;

/** Byte offsets of a group's record: addresses, small integers, vectors, scores. */
const record = {
  q: 0,
  out: 8,
  lse: 16,
  visible: 24,
  rows: 28,
  max: 64,
  sum: 128,
  scale: 192,
  scores: 256,
};

/** Bytes of scratch memory that a group needs, on the widest vectors. */
export const groupBytes: number = record.scores + (pageTokens / tileKeys) * 64;

// Registers that live through the kernel, and those of its loops.
const [groups, groupsEnd, task, args, block, page]: Gpr[] = [r13, r12, r14, r15, rbx, rbp];
const [group, keys, token, offset]: Gpr[] = [r9, r10, r8, r11];

const infinities = Float32Array.from({ length: 32 }, (_, i) => (i < 16 ? Infinity : -Infinity));

/** Emits the kernel for `spec`. */
export function emitMlaKernel(spec: MlaKernelSpec, isa: Isa): Uint8Array {
  return new MlaKernel(spec, isa).emit();
}

class MlaKernel {
  private readonly spec: MlaKernelSpec;
  private readonly asm: Assembler = new Assembler();
  private readonly v: VectorBuilder;
  /** Rows of a full group, groups of a query, rows of its last. */
  private readonly rows: number;
  private readonly parts: number;
  private readonly lastRows: number;
  /** Bytes of a group's record as it is. */
  private readonly recordBytes: number;

  constructor(spec: MlaKernelSpec, isa: Isa) {
    this.spec = spec;
    this.v = new VectorBuilder(this.asm, isa);
    this.rows = groupRows(this.v);
    this.parts = Math.ceil(spec.heads / this.rows);
    this.lastRows = spec.heads - (this.parts - 1) * this.rows;
    this.recordBytes = record.scores + (pageTokens / tileKeys) * this.v.vectorBytes;
  }

  emit(): Uint8Array {
    const { asm, v } = this;
    v.kernel([rbx, rbp, r12, r13, r14, r15], () => {
      asm.mov(args, rdi);
      asm.mov(groups, rdx);
      asm.shl(rsi, Math.log2(taskLayout.bytes));
      asm.add(rsi, mem(args, { disp: argumentLayout.tasks }));
      asm.mov(task, rsi);
      this.emitRecords();
      this.emitBlocks();
      this.emitResults();
    });
    return asm.finish();
  }

  private field(name: keyof typeof record): Mem {
    return mem(group, { disp: record[name] });
  }

  /** Runs `body` for each group. */
  private eachGroup(body: () => void): void {
    const { asm } = this;
    asm.mov(group, groups);
    const next = asm.here("group");
    body();
    asm.add(group, this.recordBytes);
    asm.cmp(group, groupsEnd);
    asm.jb(next);
  }

  /** Runs the variant of `body` for as many rows as the group has. */
  private byRows(body: (rows: number) => void): void {
    const { asm } = this;
    if (this.lastRows === this.rows || this.parts === 1) {
      body(this.lastRows);
      return;
    }
    const [last, end] = [asm.label("last"), asm.label("end")];
    asm.cmp(this.field("rows").d, this.rows);
    asm.jne(last);
    body(this.rows);
    asm.jmp(end);
    asm.bind(last);
    body(this.lastRows);
    asm.bind(end);
  }

  /** Fills the groups' records, clears their results. */
  private emitRecords(): void {
    const { asm, v, spec } = this;
    const [q, out, lse, visible, part, rows, left] = [rax, rcx, rdx, rsi, rdi, r10, r8];
    const fields = { q, out, lse, visible, part, groups: left } as const;
    for (const [name, register] of Object.entries(fields)) {
      asm.mov(register, mem(task, { disp: taskLayout[name as keyof typeof fields] }));
    }
    asm.mov(group, groups);
    const [next, sameQuery] = [asm.here("record"), asm.label("sameQuery")];
    asm.mov(this.field("q"), q);
    asm.mov(this.field("out"), out);
    asm.mov(this.field("lse"), lse);
    asm.mov(this.field("visible").d, visible.d);
    asm.mov(rows.d, this.rows);
    asm.mov(r11.d, this.lastRows);
    asm.cmp(part.d, this.parts - 1);
    asm.cmove(rows.d, r11.d);
    asm.mov(this.field("rows").d, rows.d);
    v.scope(() => {
      const start = v.take("start");
      v.fill(start, Number.NEGATIVE_INFINITY);
      v.store(this.field("max"), start);
      v.zero(start);
      v.store(this.field("sum"), start);
    });
    asm.imul(r11, rows, 4 * spec.qStride);
    asm.add(q, r11);
    this.emitClear(out, rows);
    asm.lea(lse, mem(lse, { index: rows, scale: 4 }));
    asm.inc(part.d);
    asm.cmp(part.d, this.parts);
    asm.jne(sameQuery);
    asm.xor(part.d, part.d);
    asm.inc(visible.d);
    asm.add(lse, 4 * (spec.lseStride - spec.heads));
    asm.bind(sameQuery);
    asm.add(group, this.recordBytes);
    asm.dec(left.d);
    asm.jne(next);
    asm.mov(groupsEnd, group);
  }

  /** Clears `rows` rows of results at `out` and moves on behind them; leaves `rows`. */
  private emitClear(out: Gpr, rows: Gpr): void {
    const { asm, v, spec } = this;
    asm.mov(r11.d, rows.d);
    v.loop(r11.d, () => {
      v.scope(() => {
        const zero = v.take("zero");
        v.zero(zero);
        v.eachVector(spec.headDimV, (first, tail) => {
          v.store(mem(out, { disp: 4 * first }), zero, tail);
        });
      });
      asm.add(out, 4 * spec.outStride);
    });
  }

  private emitBlocks(): void {
    const { asm, spec } = this;
    const [next, end] = [asm.label("block"), asm.label("end")];
    asm.xor(block.d, block.d);
    asm.cmp(mem(task, { disp: taskLayout.blocks }).d, 0);
    asm.je(end);
    asm.bind(next);
    asm.mov(rax, mem(task, { disp: taskLayout.blockTable }));
    asm.mov(rcx.d, block.d);
    asm.shr(rcx.d, Math.log2(pageTokens));
    asm.movsxd(page, mem(rax, { index: rcx, scale: 4 }).d);
    asm.imul(page, page, pageTokens * spec.kvStride * cacheBytes(spec));
    asm.add(page, mem(args, { disp: argumentLayout.kvCache }));
    this.emitScores();
    this.eachGroup(() => this.emitSoftmax());
    this.emitValues();
    asm.add(block.d, pageTokens);
    asm.mov(rax.d, block.d);
    asm.shr(rax.d, Math.log2(pageTokens));
    asm.cmp(rax.d, mem(task, { disp: taskLayout.blocks }).d);
    asm.jb(next);
    asm.bind(end);
  }

  /** Scores of the block, 4 keys after 4 keys, of each group that sees the first of them. */
  private emitScores(): void {
    const { asm, v, spec } = this;
    asm.mov(keys, page);
    asm.mov(token.d, block.d);
    asm.xor(offset.d, offset.d);
    const next = asm.here("keys");
    this.eachGroup(() => {
      const skip = asm.label("skip");
      asm.cmp(this.field("visible").d, token.d);
      asm.jle(skip);
      this.byRows((rows) => {
        asm.mov(rdi, this.field("q"));
        asm.mov(rsi, keys);
        emitScoreTile(v, spec, rows, mem(group, { index: offset, disp: record.scores }));
      });
      asm.bind(skip);
    });
    asm.add(keys, tileKeys * spec.kvStride * cacheBytes(spec));
    asm.add(token.d, tileKeys);
    asm.add(offset.d, v.vectorBytes);
    asm.cmp(offset.d, (pageTokens / tileKeys) * v.vectorBytes);
    asm.jb(next);
  }

  /** `count` = how many keys of this block the group sees, at most 64; jumps to `none` at zero. */
  private emitCount(count: Gpr, spare: Gpr, none: Label): void {
    const { asm } = this;
    asm.mov(count.d, this.field("visible").d);
    asm.sub(count.d, block.d);
    asm.jle(none);
    asm.mov(spare.d, pageTokens);
    asm.cmp(count.d, spare.d);
    asm.cmovg(count.d, spare.d);
  }

  /**
   * Turns the group's scores into weights; updates its maximum, its sum and the scale of the past.
   */
  private emitSoftmax(): void {
    const { asm, v } = this;
    const [first, last, walker] = [rsi, rcx, rdx];
    const none = asm.label("none");
    this.emitCount(rax, rcx, none);
    asm.dec(rax.d);
    asm.mov(last.d, rax.d);
    asm.shr(last.d, Math.log2(tileKeys));
    asm.shl(last.d, Math.log2(v.vectorBytes));
    asm.lea(first, mem(group, { disp: record.scores }));
    asm.add(last, first);
    asm.and(rax.d, tileKeys - 1);
    v.scope(() => {
      const [max, scale, sum, score] = v.take("softmax", 4);
      this.hideUnseen(last, score);
      v.load(max, mem(first));
      this.walk(walker, first, last, () => asm.vmaxps(max, max, mem(walker)));
      this.overKeys(max, score, (dst, a, b) => asm.vmaxps(dst, a, b));
      v.load(score, this.field("max"));
      asm.vmaxps(max, score, max);
      v.store(this.field("max"), max);
      v.broadcast(scale, mem(args, { disp: argumentLayout.softmaxScale }));
      asm.vsubps(score, score, max);
      asm.vmulps(score, score, scale);
      expPs(v, score, score);
      v.store(this.field("scale"), score);
      asm.vmulps(sum, score, this.field("sum"));
      this.walk(walker, first, last, () => {
        v.load(score, mem(walker));
        asm.vsubps(score, score, max);
        asm.vmulps(score, score, scale);
        expPs(v, score, score);
        v.store(mem(walker), score);
        asm.vaddps(sum, sum, score);
      });
      v.store(this.field("sum"), sum);
    });
    asm.bind(none);
  }

  /** Scores of the last vector at `last` beyond key `rax` of its four become -infinity. */
  private hideUnseen(last: Gpr, score: Vec): void {
    const { asm, v } = this;
    // A window over infinities, then minus infinities: the minimum with +infinity changes nothing,
    // and of a NaN it is the window.
    asm.lea(rdx, mem(asm.constant(infinities)));
    asm.shl(rax.d, Math.log2(4 * this.rows));
    asm.neg(rax);
    asm.add(rdx, rax);
    v.load(score, mem(last));
    asm.vminps(score, score, mem(rdx, { disp: 64 - 4 * this.rows }));
    v.store(mem(last), score);
  }

  /** Runs `body` with `walker` at each vector from `first` to `last`, both included. */
  private walk(walker: Gpr, first: Gpr, last: Gpr, body: () => void): void {
    const { asm, v } = this;
    asm.mov(walker, first);
    const next = asm.here("vector");
    body();
    asm.add(walker, v.vectorBytes);
    asm.cmp(walker, last);
    asm.jbe(next);
  }

  /** Combines the lanes of each row: all of them get the result of the four keys. */
  private overKeys(vec: Vec, spare: Vec, combine: (dst: Vec, a: Vec, b: Vec) => void): void {
    const { asm, v } = this;
    if (v.avx512) {
      asm.vshuff32x4(spare, vec, vec, 0b01_00_11_10);
      combine(vec, vec, spare);
      asm.vshuff32x4(spare, vec, vec, 0b10_11_00_01);
    } else {
      asm.vperm2f128(spare, vec, vec, 0x01);
      combine(vec, vec, spare);
      asm.vshufps(spare, vec, vec, 0b01_00_11_10);
    }
    combine(vec, vec, spare);
  }

  /** Adds the block's values to the results, some dimensions of all groups after the others. */
  private emitValues(): void {
    const { asm, v, spec } = this;
    const slab = tileVectors * v.lanes;
    const whole = Math.floor(spec.headDimV / slab);
    asm.mov(keys, page);
    asm.xor(offset.d, offset.d);
    const emitSlab = (elements: number): void => {
      this.eachGroup(() => this.emitGroupValues(elements));
    };
    if (whole > 0) {
      const next = asm.here("slab");
      emitSlab(slab);
      asm.add(keys, slab * cacheBytes(spec));
      asm.add(offset.d, 4 * slab);
      asm.cmp(offset.d, 4 * slab * whole);
      asm.jb(next);
    }
    if (spec.headDimV % slab > 0) emitSlab(spec.headDimV % slab);
  }

  private emitGroupValues(elements: number): void {
    const { asm, v, spec } = this;
    const { out, values, weights, count } = valueTile;
    const none = asm.label("none");
    this.emitCount(count, rax, none);
    asm.mov(out, this.field("out"));
    asm.add(out, offset);
    asm.mov(values, keys);
    asm.lea(weights, mem(group, { disp: record.scores }));
    this.byRows((rows) => emitValueTile(v, spec, rows, elements, this.field("scale")));
    asm.bind(none);
  }

  /** Divides the results by their totals and writes the logarithms. */
  private emitResults(): void {
    const { asm, v, spec } = this;
    this.eachGroup(() => {
      const [empty, end] = [asm.label("empty"), asm.label("end")];
      asm.mov(rcx.d, this.field("rows").d);
      asm.cmp(this.field("visible").d, 0);
      asm.jle(empty);
      v.scope(() => {
        const [sum, factor, spare] = v.take("results", 3);
        v.load(sum, this.field("sum"));
        this.overKeys(sum, spare, (dst, a, b) => asm.vaddps(dst, a, b));
        v.fill(factor, 1);
        asm.vdivps(factor, factor, sum);
        v.store(this.field("scale"), factor);
        if (spec.lseStride > 0) {
          lnPs(v, sum, sum);
          v.load(factor, this.field("max"));
          v.broadcast(spare, mem(args, { disp: argumentLayout.softmaxScale }));
          v.fma(sum, factor, spare);
          v.store(this.field("sum"), sum);
        }
      });
      this.emitScaledRows();
      if (spec.lseStride > 0) asm.jmp(end);
      asm.bind(empty);
      if (spec.lseStride > 0) {
        v.scope(() => {
          const infinite = v.take("infinite");
          v.fill(infinite, Number.POSITIVE_INFINITY);
          v.store(this.field("sum"), infinite);
        });
        asm.bind(end);
        asm.mov(rdi, this.field("lse"));
        asm.lea(rsi, this.field("sum"));
        asm.shl(rcx.d, 2);
        asm.rep().movsb();
      }
    });
  }

  /** Multiplies each row of results by its factor in `scale`; leaves rcx. */
  private emitScaledRows(): void {
    const { asm, v, spec } = this;
    asm.mov(rdi, this.field("out"));
    asm.lea(rsi, this.field("scale"));
    asm.mov(rax.d, rcx.d);
    v.loop(rax.d, () => {
      v.scope(() => {
        const [factor, value] = v.take("scaled", 2);
        v.broadcast(factor, mem(rsi));
        v.eachVector(spec.headDimV, (first, tail) => {
          const place = mem(rdi, { disp: 4 * first });
          v.load(value, place, tail);
          asm.vmulps(value, value, factor);
          v.store(place, value, tail);
        });
      });
      asm.add(rdi, 4 * spec.outStride);
      asm.add(rsi, 4);
    });
  }
}
