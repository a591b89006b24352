/**
 * @file Tensor cores. `WgMma` is asynchronous: a warp's 16 rows of the product are computed some time
 * between issue and the `WgWait` that covers its group, so operands must rest until then, and
 * accumulators may not be touched. `MmaSync` is the portable, synchronous form of one warp.
 */
import { assert } from "../../../base/index.ts";
import { bf16ToF32, f8e4m3ToF32 } from "../../../tensor/index.ts";
import { AsyncOperation } from "../emulator/machine.ts";
import { multiplyTile } from "../emulator/tensor-core.ts";
import type { MmaQueue, Warp } from "../emulator/warp.ts";
import { isRegister, type WgmmaAttributes } from "../ir.ts";
import { type Descriptor, decodeDescriptor, elementAddress } from "../layout.ts";
import { constantOf, type Op, type Step, signature } from "./op.ts";

/** Orders ordinary uses of registers before the tensor-core operations that follow. */
export const WgFence: Op<"WgFence"> = {
  verify: signature("<"),
  emit: (_, e) => e.line("wgmma.fence.sync.aligned;"),
  exec(_, warp) {
    warp.needFullMask("wgmma.fence");
    warp.mma.fence = warp.steps;
  },
};

/** Bytes of k that one instruction covers, and so its elements. */
const kBytes = 32;

const decoders = { e4m3: f8e4m3ToF32, bf16: bf16ToF32 } as const;

/** Gathers `rows` x 32 bytes of an operand as float32, row by row, noting each word as read. */
function gather(
  self: AsyncOperation,
  warp: Warp,
  d: Descriptor,
  firstRow: number,
  rows: number,
  attr: { type: "e4m3" | "bf16"; transposed: boolean },
): Float32Array {
  const { shared } = warp.cta;
  const bytes = attr.type === "e4m3" ? 1 : 2;
  const k = kBytes / bytes;
  const values = new Float32Array(rows * k);
  const decode = decoders[attr.type];
  const perWord = 4 / bytes;
  const [slowCount, fastCount] = attr.transposed ? [k, rows] : [rows, k];
  for (let slow = 0; slow < slowCount; slow++) {
    for (let fast = 0; fast < fastCount; fast += perWord) {
      const row = attr.transposed ? fast : slow;
      const x = attr.transposed ? slow : fast;
      const place = elementAddress(d, firstRow + row, x, bytes, attr.transposed) - shared.base;
      if (place < 0 || place + 4 > shared.u8.length) {
        warp.fault("out-of-bounds", `a descriptor leads to byte ${place} of shared memory`);
      }
      shared.noteRead(self, place >>> 2, false);
      for (let i = 0; i < perWord; i++) {
        const code = bytes === 1 ? shared.u8[place + i] : shared.u16[(place >>> 1) + i];
        values[attr.transposed ? (row + i) * k + x : row * k + x + i] = decode(code);
      }
    }
  }
  return values;
}

/** The 16 x 16 bf16 values of A that a warp holds in 4 registers. */
function fragmentA(warp: Warp, slots: readonly number[]): Float32Array {
  const values = new Float32Array(16 * 16);
  for (let i = 0; i < 4; i++) {
    for (let l = 0; l < 32; l++) {
      const pair = warp.u32[slots[i] + l];
      const at = ((l >>> 2) + 8 * (i & 1)) * 16 + (l & 3) * 2 + 8 * (i >>> 1);
      values[at] = bf16ToF32(pair & 0xffff);
      values[at + 1] = bf16ToF32(pair >>> 16);
    }
  }
  return values;
}

/** Moves a warp's 16 x n accumulator between registers and a plain matrix. */
function eachAccumulator(
  n: number,
  visit: (register: number, lane: number, at: number) => void,
): void {
  for (let r = 0; r < n / 2; r++) {
    for (let l = 0; l < 32; l++) {
      const row = (l >>> 2) + 8 * ((r >>> 1) & 1);
      visit(r, l, row * n + (r >>> 2) * 8 + (l & 3) * 2 + (r & 1));
    }
  }
}

/** One warp's share: rows 16 (warp mod 4) and on. */
function runWgmma(
  self: AsyncOperation,
  warp: Warp,
  step: Step<"WgMma">,
  operands: { a: Descriptor | Float32Array; b: Descriptor; keep: boolean },
): void {
  const { n, type, aTransposed, bTransposed } = step.attr;
  const { a, b, keep } = operands;
  const rows = (warp.index & 3) * 16;
  const left =
    a instanceof Float32Array
      ? a
      : gather(self, warp, a, rows, 16, { type, transposed: aTransposed });
  const right = gather(self, warp, b, 0, n, { type, transposed: bTransposed });
  const sums = new Float32Array(16 * n);
  const { d } = step;
  if (keep)
    eachAccumulator(n, (r, l, at) => {
      sums[at] = warp.f32[d[r] + l];
    });
  const k = type === "e4m3" ? 32 : 16;
  const mode = type === "e4m3" ? warp.machine.numerics : "exact";
  multiplyTile(sums, left, right, { m: 16, n, k }, mode);
  eachAccumulator(n, (r, l, at) => {
    warp.f32[d[r] + l] = sums[at];
  });
}

/** Registers must have been fenced since ordinary steps used them. */
function checkFence(warp: Warp, mma: MmaQueue, slots: readonly number[]): void {
  for (const slot of slots) {
    if (mma.fence < 0 || warp.touched[slot / 32] > mma.fence) {
      warp.fault("wgmma-misuse", "registers were used since the last wgmma.fence");
    }
  }
}

/** The four warps of a warpgroup must issue the same operations with the same operands. */
function checkAgreement(warp: Warp, entry: string): void {
  const { log } = warp.mma;
  const index = log.push(entry) - 1;
  for (const other of warp.cta.warps.slice(warp.index & ~3, (warp.index & ~3) + 4)) {
    const theirs = other.mma.log[index];
    if (theirs !== undefined && theirs !== entry) {
      warp.fault("wgmma-misuse", `operands differ from those of ${other.name}`);
    }
  }
}

function descriptorAt(warp: Warp, at: number, what: string): Descriptor {
  return decodeDescriptor(warp.uniform(at, what), warp.uniform(at + 32, what));
}

const letters = (attr: WgmmaAttributes): string =>
  `${"f".repeat(attr.n / 2)}<${attr.aInRegisters ? "uuuu" : "l"}lp`;

function wgmmaShape({ n, type, ...attr }: WgmmaAttributes): string | false {
  if (n % 8 !== 0 || n < 8 || n > 256) return `n = ${n}, wanted a multiple of 8 up to 256`;
  if (type === "e4m3" && (attr.aTransposed || attr.bTransposed)) {
    return "FP8 operands must have k contiguous";
  }
  return type === "e4m3" && attr.aInRegisters && "A of FP8 in registers is not supported here";
}

/**
 * `dst` (64 x n over a warpgroup) = A B + (keep ? dst : 0); operands: A (descriptor, or 4 registers),
 * descriptor of B, predicate `keep`.
 */
export const WgMma: Op<"WgMma"> = {
  verify: signature(letters, (node) => wgmmaShape(node.attr)),
  emit(node, e) {
    const { n, type, aInRegisters, aTransposed, bTransposed } = node.attr;
    const names = node.src.map((r) => e.name(r));
    const keep = names.pop()!;
    const b = names.pop()!;
    const a = aInRegisters ? `{${names.join(", ")}}` : names[0];
    const k = type === "e4m3" ? 32 : 16;
    const flip = (on: boolean) => (on ? ", 1" : ", 0");
    let tail = ", 1, 1";
    if (type === "bf16")
      tail += aInRegisters ? flip(bTransposed) : flip(aTransposed) + flip(bTransposed);
    const constant = constantOf(node.src[node.src.length - 1]);
    const scale = constant === undefined ? keep : e.fresh("pred");
    if (constant !== undefined) e.line(`setp.ne.b32 ${scale}, ${constant}, 0;`);
    e.line(`wgmma.mma_async.sync.aligned.m64n${n}k${k}.f32.${type}.${type}`);
    const registers = node.dst.map((r) => e.name(r));
    for (let i = 0; i < registers.length; i += 16) {
      const open = i === 0 ? "{" : " ";
      const close = i + 16 >= registers.length ? "}," : ",";
      e.line(`  ${open}${registers.slice(i, i + 16).join(", ")}${close}`);
    }
    e.line(`  ${a}, ${b}, ${scale}${tail};`);
  },
  exec(step, warp) {
    warp.needFullMask("wgmma");
    const { aInRegisters } = step.attr;
    const { mma } = warp;
    const aSlots = aInRegisters ? step.s.slice(0, 4) : [];
    const bAt = step.s[aInRegisters ? 4 : 1];
    const keep = warp.uniform(step.s[step.s.length - 1], "scale-d") !== 0;
    const registers = [...step.d, ...aSlots];
    checkFence(warp, mma, registers);
    const b = descriptorAt(warp, bAt, "the descriptor of B");
    const a = aInRegisters ? fragmentA(warp, aSlots) : descriptorAt(warp, step.s[0], "that of A");
    checkAgreement(
      warp,
      `${warp.pc} ${aInRegisters ? "" : JSON.stringify(a)} ${JSON.stringify(b)}`,
    );
    const operation = new AsyncOperation(warp, mma.agent, mma.epoch(warp.machine), [
      (self) => runWgmma(self, warp, step, { a, b, keep }),
    ]);
    operation.after = mma.last;
    mma.last = operation;
    mma.pending.push({ group: mma.committed, registers, operation });
    warp.machine.enqueue(operation, warp);
  },
};

/** Closes the group of tensor-core operations issued since the last one. */
export const WgCommit: Op<"WgCommit"> = {
  verify: signature("<"),
  emit: (_, e) => e.line("wgmma.commit_group.sync.aligned;"),
  exec(_, warp) {
    warp.needFullMask("wgmma.commit_group");
    warp.mma.commit();
  },
};

/** Waits until at most `pending` groups are in flight; their registers and operands are free then. */
export const WgWait: Op<"WgWait"> = {
  verify: signature(
    "<",
    ({ attr: { pending } }) => (pending < 0 || pending > 7) && `${pending} groups`,
  ),
  emit(node, e) {
    e.line(`wgmma.wait_group.sync.aligned ${node.attr.pending};`);
  },
  exec(step, warp) {
    warp.needFullMask("wgmma.wait_group");
    const { mma } = warp;
    const until = mma.committed - step.attr.pending;
    const covered = mma.pending.filter(({ group }) => group < until);
    warp.waitFor(
      () => covered.every(({ operation }) => operation.done),
      () => {
        mma.pending = mma.pending.filter(({ group }) => group >= until);
        const { agent } = mma;
        for (const { operation } of covered) {
          warp.clock[agent] = Math.max(warp.clock[agent], operation.clock[agent]);
        }
      },
      () => `${covered.length} wgmma operations`,
    );
  },
};

/**
 * One warp: `dst` (16 x 8 float32) = A (16 x 16) B (16 x 8) + C; operands: 4 registers of A, 2 of B,
 * 4 of C. Runs on every NVIDIA GPU since Ampere.
 */
export const MmaSync: Op<"MmaSync"> = {
  verify: signature("ffff<uuuuuuffff"),
  emit(node, e) {
    const list = (operands: readonly Parameters<typeof e.name>[0][]) =>
      `{${operands.map((r) => e.name(r)).join(", ")}}`;
    const { src } = node;
    e.line("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
    e.line(
      `  ${list(node.dst)}, ${list(src.slice(0, 4))}, ${list(src.slice(4, 6))}, ${list(src.slice(6))};`,
    );
  },
  exec(step, warp) {
    warp.needFullMask("mma.sync");
    assert(step.node.src.slice(0, 6).every(isRegister), "mma.sync takes registers");
    const b = new Float32Array(8 * 16);
    for (let i = 0; i < 2; i++) {
      for (let l = 0; l < 32; l++) {
        const pair = warp.u32[step.s[4 + i] + l];
        const at = (l >>> 2) * 16 + (l & 3) * 2 + 8 * i;
        b[at] = bf16ToF32(pair & 0xffff);
        b[at + 1] = bf16ToF32(pair >>> 16);
      }
    }
    const sums = new Float32Array(16 * 8);
    eachAccumulator(8, (r, l, at) => {
      sums[at] = warp.f32[step.s[6 + r] + l];
    });
    multiplyTile(sums, fragmentA(warp, step.s), b, { m: 16, n: 8, k: 16 }, "exact");
    eachAccumulator(8, (r, l, at) => {
      warp.f32[step.d[r] + l] = sums[at];
    });
  },
};
