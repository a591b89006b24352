/**
 * @file The record sort's inner loops as machine code: scatter to buckets, extract and sort keys,
 * gather, generate, check. Integer code with 32-byte copies, the same for every instruction set.
 *
 * An entry stands for a record while keys are sorted: 16 bytes, the key's first 8 as a number, then
 * its last 2 above the record's 48-bit address. Two entries compare as their keys do, and equal keys
 * by address, which is their order of arrival. A bucket is a chain of chunks: `chunkRecords` records,
 * then, in the last 8 bytes, the address of the next chunk.
 */
import {
  Assembler,
  type Gpr,
  type Isa,
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
  xmm,
  ymm,
} from "../../codegen/index.ts";
import { increment, multiplier, recordBytes } from "./record.ts";

/** Bytes of a chunk, its link included. */
export const chunkBytes: number = 64 * 1024;
/** Records in a full chunk. */
export const chunkRecords: number = Math.floor((chunkBytes - 8) / recordBytes);
/** Bytes of an entry. */
export const entryBytes = 16;
/** Entries that `gather` may read past the end: it looks ahead to prefetch. */
export const entriesAhead = 8;
/** Bytes of a bucket's row in the table: cursor, end of its chunk, first chunk, records. */
export const rowBytes = 32;
/** Bits of a digit; a sort takes two of them. */
const digitBits = 11;
/** Bytes of the two histograms that a sort needs. */
export const histogramBytes: number = 2 * 4 * 2 ** digitBits;
/** Runs of equal digits longer than this are left to another sort; up to it, they are inserted. */
export const insertedMax = 64;

const chunkPayload = chunkRecords * recordBytes;
const chunkLink = chunkBytes - 8;

/** Offsets in the argument block of `scatter`. */
export const scatterArgs = { records: 0, count: 8, tree: 16, table: 24, nextChunk: 32 } as const;
/** Offsets in the argument block of `extract`. */
export const extractArgs = { chunk: 0, count: 8, entries: 16 } as const;
/** Offsets in the argument block of both sorts; `runs` counts the runs left, -1: all prefixes equal. */
export const sortArgs = {
  entries: 0,
  spare: 8,
  count: 16,
  histogram: 24,
  list: 32,
  runs: 40,
} as const;
/** Offsets in the argument block of `gather`. */
export const gatherArgs = { entries: 0, count: 8, out: 16 } as const;
/** Offsets in the argument block of `generate`; `state` is 16 bytes, low half first. */
export const generateArgs = { out: 0, count: 8, state: 16, row: 32, pairs: 40, quads: 48 } as const;
/** Offsets in the argument block of `check`; `last` is the last key as prefix and rest. */
export const checkArgs = {
  records: 0,
  count: 8,
  prefix: 16,
  rest: 24,
  checksum: 32,
  unordered: 40,
  duplicates: 48,
  table: 56,
} as const;

function build(isa: Isa, saved: readonly Gpr[], body: (v: VectorBuilder) => void): Uint8Array {
  const v = new VectorBuilder(new Assembler(), isa);
  v.kernel(saved, () => body(v));
  return v.asm.finish();
}

/** Copies a record of 100 bytes with four vectors, the last overlapping. */
function copyRecord(asm: Assembler, to: Gpr, from: Gpr): void {
  const places = [0, 32, 64, recordBytes - 32];
  for (const [i, disp] of places.entries()) asm.vmovdqu(ymm(i), mem(from, { disp }));
  for (const [i, disp] of places.entries()) asm.vmovdqu(mem(to, { disp }), ymm(i));
}

/**
 * Appends records to 2^levels buckets. The splitters lie in a search tree in breadth-first order
 * (children of node i at 2i and 2i + 1, root 1), walked without branches.
 */
export function scatterCode(isa: Isa, levels: number): Uint8Array {
  return build(isa, [rbx], ({ asm }) => {
    const [top, fresh, placed, first, ready, end] = Array.from({ length: 6 }, () => asm.label());
    asm.mov(rbx, rdi);
    asm.mov(rsi, mem(rdi, { disp: scatterArgs.records }));
    asm.mov(rcx, mem(rdi, { disp: scatterArgs.count }));
    asm.mov(rdx, mem(rdi, { disp: scatterArgs.tree }));
    asm.mov(r8, mem(rdi, { disp: scatterArgs.table }));
    asm.mov(r9, mem(rdi, { disp: scatterArgs.nextChunk }));
    asm.sub(r8, rowBytes << levels); // the walk ends at 2^levels + bucket
    asm.test(rcx, rcx);
    asm.jz(end);
    asm.align(32);
    asm.bind(top);
    asm.mov(rax, mem(rsi));
    asm.bswap(rax);
    asm.mov(r10.d, 1);
    for (let level = 0, [node, child] = [r10, r11]; level < levels; level++) {
      asm.cmp(rax, mem(rdx, { index: node, scale: 8 }));
      asm.lea(child, mem(node, { index: node, scale: 1, disp: 1 }));
      asm.sbb(child, 0); // below the splitter: the left child
      [node, child] = [child, node];
      if (level === levels - 1 && node !== r10) asm.mov(r10, node);
    }
    asm.shl(r10, 5);
    asm.add(r10, r8);
    asm.mov(r11, mem(r10));
    asm.cmp(r11, mem(r10, { disp: 8 }));
    asm.je(fresh);
    asm.bind(placed);
    copyRecord(asm, r11, rsi);
    asm.add(r11, recordBytes);
    asm.mov(mem(r10), r11);
    asm.inc(mem(r10, { disp: 24 }));
    asm.add(rsi, recordBytes);
    asm.dec(rcx);
    asm.jnz(top);
    asm.jmp(end);
    asm.bind(fresh);
    asm.mov(rax, r9);
    asm.add(r9, chunkBytes);
    asm.test(r11, r11);
    asm.jz(first);
    asm.mov(mem(r11, { disp: chunkLink - chunkPayload }), rax);
    asm.jmp(ready);
    asm.bind(first);
    asm.mov(mem(r10, { disp: 16 }), rax);
    asm.bind(ready);
    asm.mov(r11, rax);
    asm.add(rax, chunkPayload);
    asm.mov(mem(r10, { disp: 8 }), rax);
    asm.jmp(placed);
    asm.bind(end);
    asm.mov(mem(rbx, { disp: scatterArgs.nextChunk }), r9);
  });
}

/** Writes an entry for each record of a chain of chunks. */
export function extractCode(isa: Isa): Uint8Array {
  return build(isa, [], (v) => {
    const { asm } = v;
    const [outer, end] = [asm.label(), asm.label()];
    asm.mov(rsi, mem(rdi, { disp: extractArgs.chunk }));
    asm.mov(rcx, mem(rdi, { disp: extractArgs.count }));
    asm.mov(rdx, mem(rdi, { disp: extractArgs.entries }));
    asm.bind(outer);
    asm.test(rcx, rcx);
    asm.jz(end);
    asm.mov(r8.d, chunkRecords);
    asm.cmp(rcx, r8);
    asm.cmovb(r8, rcx);
    asm.sub(rcx, r8);
    asm.mov(rax, rsi);
    v.loop(r8, () => {
      asm.mov(r10, mem(rax));
      asm.bswap(r10);
      asm.movzx(r11.d, mem(rax, { disp: 8 }).w);
      asm.rol(r11.w, 8);
      asm.shl(r11, 48);
      asm.or(r11, rax);
      asm.mov(mem(rdx), r10);
      asm.mov(mem(rdx, { disp: 8 }), r11);
      asm.add(rdx, entryBytes);
      asm.add(rax, recordBytes);
    });
    asm.mov(rsi, mem(rsi, { disp: chunkLink }));
    asm.jmp(outer);
    asm.bind(end);
  });
}

/** The registers of both sorts. */
const entries = rsi;
const spare = rdi;
const count = rcx;
const histogram = r13;
const low = r14;
const shift = r15;

/**
 * Sorts entries by prefix: two passes over the 22 bits in which they differ first, then runs that are
 * equal in those are sorted by insertion where short, and listed (first, end) where long.
 */
export function sortByPrefixCode(isa: Isa): Uint8Array {
  return build(isa, [rbx, rbp, r12, r13, r14, r15], (v) => {
    const { asm } = v;
    const end = asm.label("end");
    loadSortArguments(v);
    emitRange(v, end);
    emitTwoPasses(v, 0);
    emitFinish(v);
    asm.bind(end);
    asm.mov(mem(rbx, { disp: sortArgs.runs }), rax);
  });
}

/** Sorts entries by their key's last two bytes, keeping the order of equal ones. */
export function sortByRestCode(isa: Isa): Uint8Array {
  return build(isa, [rbx, rbp, r12, r13, r14, r15], (v) => {
    loadSortArguments(v);
    v.asm.xor(low.d, low.d);
    v.asm.mov(shift.d, 48);
    emitTwoPasses(v, 8);
  });
}

function loadSortArguments({ asm }: VectorBuilder): void {
  asm.mov(rbx, rdi);
  asm.mov(entries, mem(rbx, { disp: sortArgs.entries }));
  asm.mov(spare, mem(rbx, { disp: sortArgs.spare }));
  asm.mov(count, mem(rbx, { disp: sortArgs.count }));
  asm.mov(histogram, mem(rbx, { disp: sortArgs.histogram }));
}

/** Sets `low` to the least prefix and `shift` so that the range fits two digits; rax = -1 if none. */
function emitRange(v: VectorBuilder, allEqual: ReturnType<Assembler["label"]>): void {
  const { asm } = v;
  asm.mov(low, -1);
  asm.xor(r12.d, r12.d);
  asm.mov(r8, entries);
  asm.mov(r9, count);
  v.loop(r9, () => {
    asm.mov(rax, mem(r8));
    asm.cmp(rax, low);
    asm.cmovb(low, rax);
    asm.cmp(rax, r12);
    asm.cmova(r12, rax);
    asm.add(r8, entryBytes);
  });
  asm.mov(rax, -1);
  asm.sub(r12, low);
  asm.jbe(allEqual);
  asm.lzcnt(r12, r12);
  asm.mov(shift.d, 64 - 2 * digitBits);
  asm.xor(rax.d, rax.d);
  asm.sub(shift, r12);
  asm.cmovs(shift, rax);
}

/** The digits' number of the entry at `from`, into `to`. */
function cellOf(asm: Assembler, to: Gpr, from: Gpr, field: number): void {
  asm.mov(to, mem(from, { disp: field }));
  asm.sub(to, low);
  asm.shrx(to, to, shift);
}

/** Stable counting sorts by the lower, then by the upper digit; the result is where it began. */
function emitTwoPasses(v: VectorBuilder, field: number): void {
  const { asm } = v;
  const digits = 2 ** digitBits;
  asm.mov(rbp, spare);
  asm.mov(r12, count);
  asm.mov(rdi, histogram);
  asm.mov(rcx.d, histogramBytes / 8);
  asm.xor(rax.d, rax.d);
  asm.rep().stosq();
  asm.mov(spare, rbp);
  asm.mov(r8, entries);
  asm.mov(r9, r12);
  v.loop(r9, () => {
    cellOf(asm, rax, r8, field);
    asm.mov(rdx.d, rax.d);
    asm.and(rdx.d, digits - 1);
    asm.shr(rax.d, digitBits);
    asm.inc(mem(histogram, { index: rdx, scale: 4 }).d);
    asm.inc(mem(histogram, { index: rax, scale: 4, disp: 4 * digits }).d);
    asm.add(r8, entryBytes);
  });
  for (const place of [0, 4 * digits]) {
    asm.lea(r8, mem(histogram, { disp: place }));
    asm.xor(rax.d, rax.d);
    asm.mov(r9.d, digits);
    v.loop(r9, () => {
      asm.mov(rdx.d, mem(r8));
      asm.mov(mem(r8), rax.d);
      asm.shl(rdx.d, 4);
      asm.add(rax.d, rdx.d);
      asm.add(r8, 4);
    });
  }
  for (const [from, to, upper] of [
    [entries, spare, false],
    [spare, entries, true],
  ] as const) {
    asm.mov(r8, from);
    asm.mov(r9, r12);
    const disp = upper ? 4 * digits : 0;
    v.loop(r9, () => {
      cellOf(asm, rax, r8, field);
      if (upper) asm.shr(rax.d, digitBits);
      else asm.and(rax.d, digits - 1);
      asm.mov(rdx.d, mem(histogram, { index: rax, scale: 4, disp }));
      asm.vmovdqu(xmm(0), mem(r8));
      asm.vmovdqu(mem(to, { index: rdx, scale: 1 }), xmm(0));
      asm.add(mem(histogram, { index: rax, scale: 4, disp }).d, entryBytes);
      asm.add(r8, entryBytes);
    });
  }
}

/** Walks the runs of equal cells; leaves in rax how many were listed. */
function emitFinish(v: VectorBuilder): void {
  const { asm } = v;
  const [run, member, close, listed, done] = Array.from({ length: 5 }, () => asm.label());
  const [first, next, end, list] = [entries, rdx, r12, rdi];
  asm.mov(list, mem(rbx, { disp: sortArgs.list }));
  asm.mov(mem(rbx, { disp: sortArgs.runs }), 0);
  asm.shl(end, 4);
  asm.add(end, first);
  asm.cmp(first, end);
  asm.je(done);
  cellOf(asm, r9, first, 0);
  asm.bind(run);
  asm.mov(r8, r9);
  asm.lea(next, mem(first, { disp: entryBytes }));
  asm.bind(member);
  asm.cmp(next, end);
  asm.je(close);
  cellOf(asm, r9, next, 0);
  asm.cmp(r9, r8);
  asm.jne(close);
  asm.add(next, entryBytes);
  asm.jmp(member);
  asm.bind(close);
  asm.mov(rax, next);
  asm.sub(rax, first);
  const alone = asm.label();
  asm.cmp(rax, entryBytes);
  asm.je(alone);
  asm.cmp(rax, insertedMax * entryBytes);
  asm.ja(listed);
  emitInsertion(asm, first, next);
  asm.bind(alone);
  asm.mov(first, next);
  asm.cmp(first, end);
  asm.jne(run);
  asm.jmp(done);
  asm.bind(listed);
  asm.mov(mem(list), first);
  asm.mov(mem(list, { disp: 8 }), next);
  asm.add(list, 16);
  asm.inc(mem(rbx, { disp: sortArgs.runs }));
  asm.jmp(alone);
  asm.bind(done);
  asm.mov(rax, mem(rbx, { disp: sortArgs.runs }));
}

/** Sorts the entries in [first, end) by insertion; uses rax, rcx, r8, r10, r11, rbp. */
function emitInsertion(asm: Assembler, first: Gpr, end: Gpr): void {
  const [place, prefix, word, next] = [r8, r10, r11, rbp];
  const [take, shiftUp, move, drop, done] = Array.from({ length: 5 }, () => asm.label());
  asm.lea(next, mem(first, { disp: entryBytes }));
  asm.bind(take);
  asm.cmp(next, end);
  asm.je(done);
  asm.mov(prefix, mem(next));
  asm.mov(word, mem(next, { disp: 8 }));
  asm.mov(place, next);
  asm.bind(shiftUp);
  asm.cmp(place, first);
  asm.je(drop);
  asm.cmp(mem(place, { disp: -16 }), prefix);
  asm.ja(move);
  asm.jb(drop);
  asm.cmp(mem(place, { disp: -8 }), word);
  asm.jbe(drop);
  asm.bind(move);
  asm.vmovdqu(xmm(0), mem(place, { disp: -16 }));
  asm.vmovdqu(mem(place), xmm(0));
  asm.sub(place, entryBytes);
  asm.jmp(shiftUp);
  asm.bind(drop);
  asm.mov(mem(place), prefix);
  asm.mov(mem(place, { disp: 8 }), word);
  asm.add(next, entryBytes);
  asm.jmp(take);
  asm.bind(done);
}

/** Copies the records of entries to consecutive places. */
export function gatherCode(isa: Isa): Uint8Array {
  return build(isa, [], (v) => {
    const { asm } = v;
    asm.mov(rsi, mem(rdi, { disp: gatherArgs.entries }));
    asm.mov(rcx, mem(rdi, { disp: gatherArgs.count }));
    asm.mov(rdx, mem(rdi, { disp: gatherArgs.out }));
    v.loop(rcx, () => {
      loadAddress(asm, rax, (entriesAhead - 1) * entryBytes);
      asm.prefetcht0(mem(rax));
      asm.prefetcht0(mem(rax, { disp: recordBytes - 1 }));
      loadAddress(asm, rax, 0);
      copyRecord(asm, rdx, rax);
      asm.add(rdx, recordBytes);
      asm.add(rsi, entryBytes);
    });
  });
}

function loadAddress(asm: Assembler, to: Gpr, disp: number): void {
  asm.mov(to, mem(rsi, { disp: disp + 8 }));
  asm.shl(to, 16);
  asm.shr(to, 16);
}

function words64(...values: readonly bigint[]): BigUint64Array {
  return BigUint64Array.from(values.map((value) => BigInt.asUintN(64, value)));
}

/** Writes the records of rows that follow each other. */
export function generateCode(isa: Isa): Uint8Array {
  return build(isa, [rbx, rbp, r12, r13, r14, r15], (v) => {
    const { asm } = v;
    asm.mov(rbp, rdi);
    asm.mov(rsi, mem(rbp, { disp: generateArgs.out }));
    asm.mov(rbx, mem(rbp, { disp: generateArgs.count }));
    asm.mov(r12, mem(rbp, { disp: generateArgs.state }));
    asm.mov(r13, mem(rbp, { disp: generateArgs.state + 8 }));
    asm.mov(r14, mem(rbp, { disp: generateArgs.row }));
    asm.mov(r15, mem(rbp, { disp: generateArgs.pairs }));
    asm.mov(rdi, mem(rbp, { disp: generateArgs.quads }));
    v.loop(rbx, () => {
      emitNextState(asm);
      emitRecord(asm);
      asm.inc(r14);
      asm.add(rsi, recordBytes);
    });
    asm.mov(mem(rbp, { disp: generateArgs.state }), r12);
    asm.mov(mem(rbp, { disp: generateArgs.state + 8 }), r13);
    asm.mov(mem(rbp, { disp: generateArgs.row }), r14);
  });
}

/** r13:r12 = multiplier * r13:r12 + increment, modulo 2^128. */
function emitNextState(asm: Assembler): void {
  const a = asm.constant(words64(multiplier, multiplier >> 64n), 16);
  const c = asm.constant(words64(increment, increment >> 64n), 16);
  asm.mov(r8, r12);
  asm.imul(r8, mem(a, { disp: 8 }));
  asm.imul(r13, mem(a));
  asm.mov(rax, r12);
  asm.mul(mem(a));
  asm.add(rdx, r8);
  asm.add(rdx, r13);
  asm.add(rax, mem(c));
  asm.adc(rdx, mem(c, { disp: 8 }));
  asm.mov(r12, rax);
  asm.mov(r13, rdx);
}

/** The record of state r13:r12 and row r14 at rsi; r15 and rdi are the tables of digits. */
function emitRecord(asm: Assembler): void {
  asm.mov(r8, r13);
  asm.bswap(r8);
  asm.mov(mem(rsi), r8);
  asm.mov(r8, r12);
  asm.shr(r8, 48);
  asm.rol(r8.w, 8);
  asm.or(r8.d, 0x11000000); // 00 11 behind the key
  asm.mov(mem(rsi, { disp: 8 }), r8.d);
  asm.vmovdqu(xmm(0), mem(asm.constant(new Uint8Array(16).fill(0x30))));
  asm.vmovdqu(mem(rsi, { disp: 12 }), xmm(0));
  for (let i = 0; i < 8; i++) {
    asm.mov(r8, r14);
    asm.shr(r8, 56 - 8 * i);
    asm.movzx(r8.d, r8.b);
    asm.movzx(r8.d, mem(r15, { index: r8, scale: 2 }).w);
    asm.mov(mem(rsi, { disp: 28 + 2 * i }), r8.w);
  }
  asm.mov(mem(rsi, { disp: 44 }).d, 0xbbaa9988 | 0);
  for (let i = 0; i < 12; i++) {
    asm.mov(r8, r12);
    asm.shr(r8, 44 - 4 * i);
    asm.and(r8.d, 15);
    asm.mov(r8.d, mem(rdi, { index: r8, scale: 4 }));
    asm.mov(mem(rsi, { disp: 48 + 4 * i }), r8.d);
  }
  asm.mov(mem(rsi, { disp: 96 }).d, 0xffeeddcc | 0);
}

/** Compares each key with the one before it, and sums the records' CRC-32. */
export function checkCode(isa: Isa): Uint8Array {
  return build(isa, [rbx, rbp, r12, r13, r14, r15], (v) => {
    const { asm } = v;
    const [prefix, rest, sum, table] = [r12, r13, r14, r15];
    asm.mov(rbp, rdi);
    asm.mov(rsi, mem(rbp, { disp: checkArgs.records }));
    asm.mov(rbx, mem(rbp, { disp: checkArgs.count }));
    asm.mov(prefix, mem(rbp, { disp: checkArgs.prefix }));
    asm.mov(rest, mem(rbp, { disp: checkArgs.rest }));
    asm.mov(sum, mem(rbp, { disp: checkArgs.checksum }));
    asm.mov(table, mem(rbp, { disp: checkArgs.table }));
    v.loop(rbx, () => {
      emitCompare(asm, prefix, rest);
      emitCrc(asm, rsi, table);
      asm.add(sum, r8);
      asm.add(rsi, recordBytes);
    });
    asm.mov(mem(rbp, { disp: checkArgs.prefix }), prefix);
    asm.mov(mem(rbp, { disp: checkArgs.rest }), rest);
    asm.mov(mem(rbp, { disp: checkArgs.checksum }), sum);
  });
}

function emitCompare(asm: Assembler, prefix: Gpr, rest: Gpr): void {
  const [below, equal, decided, tied] = Array.from({ length: 4 }, () => asm.label());
  asm.mov(rax, mem(rsi));
  asm.bswap(rax);
  asm.movzx(rdx.d, mem(rsi, { disp: 8 }).w);
  asm.rol(rdx.w, 8);
  asm.cmp(rax, prefix);
  asm.mov(prefix, rax);
  asm.je(tied);
  asm.jb(below);
  asm.jmp(decided);
  asm.bind(tied);
  asm.cmp(rdx, rest);
  asm.je(equal);
  asm.ja(decided);
  asm.bind(below);
  asm.inc(mem(rbp, { disp: checkArgs.unordered }));
  asm.jmp(decided);
  asm.bind(equal);
  asm.inc(mem(rbp, { disp: checkArgs.duplicates }));
  asm.bind(decided);
  asm.mov(rest, rdx);
}

/**
 * r8 = CRC-32 of the record at `from`, eight bytes a step: `table` holds, for each distance of 0 to 7
 * bytes, what each byte contributes. Method: M. Kounavis and F. Berry, "A Systematic Approach to
 * Building High Performance Software-based CRC Generators", 2005.
 */
function emitCrc(asm: Assembler, from: Gpr, table: Gpr): void {
  asm.mov(r8.d, -1);
  for (let disp = 0; disp < recordBytes; disp += 8) {
    const bytes = Math.min(8, recordBytes - disp);
    asm.mov(bytes === 8 ? rax : rax.d, mem(from, { disp }));
    asm.xor(rax, r8);
    for (let i = 0; i < bytes; i++) {
      asm.movzx(rdx.d, rax.b);
      if (i < bytes - 1) asm.shr(rax, 8);
      const slot = mem(table, { index: rdx, scale: 4, disp: 1024 * (bytes - 1 - i) }).d;
      if (i === 0) asm.mov(r8.d, slot);
      else asm.xor(r8.d, slot);
    }
  }
  asm.not(r8.d);
}
