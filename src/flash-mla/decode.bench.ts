/**
 * @file `flashMlaWithKvCache` against this machine's limits: a batch of 32 decoding one token each,
 * whose caches (pages in random order) memory holds and no cache does. The roof is the slower of
 * multiplying (`vdpbf16ps` between registers) and reading the caches once; both limits are measured
 * in turn with the calls, as machines are noisy. One thread is timed by its processor time, several
 * by the wall, of runs that nobody disturbed. Beside it OpenBLAS computes the two products of the same attention in float32, one
 * request after the other, keys widened and values transposed beforehand, softmax left out.
 */
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { ceilDiv, medianOf, Random } from "../base/index.ts";
import { Assembler, hasAvx512, mem, r8, rax, rdi, rsi, ymm, zmm } from "../codegen/index.ts";
import { ArgumentBlock, type Device, openDevice } from "../device/index.ts";
import { addressOf, processCpuTimeUs, threadCpuTimeUs } from "../native/index.ts";
import { type Tensor, tensorOf, zeros } from "../tensor/index.ts";
import {
  flashAttnVarlenBackward,
  flashAttnVarlenFunc,
  flashMlaSparseFwd,
  flashMlaWithKvCache,
  getMlaMetadata,
  quantiseKvCache,
} from "./index.ts";

const [dimQk, headDimV] = [576, 512];

/** Sizes of a line. */
interface Shape {
  readonly batch: number;
  readonly heads: number;
  readonly keys: number;
}

/** Tasks of a limit for each thread: as many as let a thread that comes late catch up. */
const limitTasks = 8;
const readBytes = 32 * 2 ** 20;
const bufferBytes = 8 * readBytes;

/** Something that reaches a limit: how much it does at a time, operations or bytes. */
interface Limit {
  readonly run: () => void;
  readonly amount: number;
}

/** Multiply-adds between registers, of pairs of bf16 where the instruction set has them. */
function arithmeticLimit(device: Device): Limit {
  const isa = device.isa!;
  const asm = new Assembler();
  const vec = hasAvx512(isa) ? zmm : ymm;
  const sums = hasAvx512(isa) ? 24 : 12;
  const isDot = isa === "avx512-bf16";
  const turns = 10_000;
  asm.mov(rax.d, turns);
  const next = asm.here("turn");
  for (let i = 0; i < sums; i++) {
    if (isDot) asm.vdpbf16ps(vec(i), vec(sums), vec(sums + 1));
    else asm.vfmadd231ps(vec(i), vec(sums), vec(sums + 1));
  }
  asm.dec(rax.d);
  asm.jne(next);
  asm.vzeroupper();
  asm.ret();
  const kernel = device.load(asm.finish(), "arithmetic limit");
  const args = new ArgumentBlock(device, 64);
  const tasks = limitTasks * device.threads;
  const amount = tasks * turns * sums * (vec(0).bits / 32) * (isDot ? 4 : 2);
  return { run: () => device.launch(kernel, args.address, tasks), amount };
}

/** Reads the next part of a large buffer. */
function readLimit(device: Device): Limit {
  const memory = new Float32Array(device.allocate(bufferBytes) as ArrayBuffer).fill(1);
  const asm = new Assembler();
  const vec = hasAvx512(device.isa!) ? zmm : ymm;
  const bytes = vec(0).bits / 8;
  const tasks = limitTasks * device.threads;
  const share = Math.floor(readBytes / tasks / 4096) * 4096;
  asm.mov(rax, mem(rdi));
  asm.imul(rsi, rsi, share);
  asm.add(rax, rsi);
  asm.mov(r8.d, share / (8 * bytes));
  const next = asm.here("line");
  for (let i = 0; i < 8; i++) asm.vorps(vec(i), vec(i), mem(rax, { disp: i * bytes }));
  asm.add(rax, 8 * bytes);
  asm.dec(r8.d);
  asm.jne(next);
  asm.vzeroupper();
  asm.ret();
  const kernel = device.load(asm.finish(), "read limit");
  const args = new ArgumentBlock(device, 64);
  let launches = 0;
  const run = (): void => {
    args.setAddress(0, addressOf(memory) + ((launches++ * readBytes) % bufferBytes));
    device.launch(kernel, args.address, tasks);
  };
  return { run, amount: tasks * share };
}

/** A call of ours on fresh numbers. */
function makeCall(device: Device, { batch, heads, keys }: Shape): () => void {
  const random = new Random(1);
  const pages = ceilDiv(keys, 64);
  const q = randomBf16(device, [batch, 1, heads, dimQk], 1);
  const kCache = randomBf16(device, [batch * pages, 64, 1, dimQk], 2);
  const order = random.shuffle(Array.from({ length: batch * pages }, (_, i) => i));
  const blockTable = tensorOf("i32", [batch, pages], Int32Array.from(order));
  const cacheSeqlens = tensorOf("i32", [batch], new Int32Array(batch).fill(keys));
  const { threads } = device;
  const { tileSchedulerMetadata, numSplits } = getMlaMetadata(cacheSeqlens, heads, 1, {
    threads,
    overheadBlocks: 1,
  });
  const out = zeros("bf16", [batch, 1, heads, headDimV], device.allocate);
  const lse = zeros("f32", [batch, heads, 1], device.allocate);
  return () => {
    flashMlaWithKvCache(
      device,
      q,
      kCache,
      blockTable,
      cacheSeqlens,
      headDimV,
      tileSchedulerMetadata,
      numSplits,
      { out, lse },
    );
  };
}

interface OpenBlas {
  readonly name: string;
  sgemmNt(call: object): () => void;
}

/** OpenBLAS, once what it is or why it is not here is printed. */
async function openPeer(print: (line: string) => void): Promise<OpenBlas | undefined> {
  const folder = resolve(dirname(fileURLToPath(import.meta.url)), "../../peers");
  const file = join(folder, "openblas.js");
  if (!existsSync(file)) {
    print("peer: peers/openblas.js is not here");
    return undefined;
  }
  const { openOpenblas } = await import(pathToFileURL(file).href);
  const peer = openOpenblas();
  print(`peer: ${peer.absent ?? peer.name}`);
  return peer.absent ? undefined : peer;
}

/** The peer's products for every request. */
function makePeerCall(device: Device, peer: OpenBlas, { batch, heads, keys }: Shape): () => void {
  const filled = (...shape: number[]): Tensor<"f32"> => {
    const tensor = zeros("f32", shape, device.allocate);
    tensor.data.fill(0.05);
    return tensor;
  };
  const calls = Array.from({ length: batch }, () => {
    const [q, k, vT] = [filled(heads, dimQk), filled(keys, dimQk), filled(headDimV, keys)];
    const [scores, out] = [filled(heads, keys), filled(heads, headDimV)];
    const { threads } = device;
    const shared = { m: heads, threads };
    const addresses = { a: q.address, b: k.address, d: scores.address };
    const first = peer.sgemmNt({ ...shared, n: keys, k: dimQk, ...addresses });
    const after = { a: scores.address, b: vT.address, d: out.address };
    const second = peer.sgemmNt({ ...shared, n: headDimV, k: keys, ...after });
    // The tensors live as long as the calls.
    return { first, second, kept: [q, k, vT, scores, out] };
  });
  return () => {
    for (const { first, second } of calls) {
      first();
      second();
    }
  };
}

/** Medians of a contender: by the clock that counts, and of the processor time of all threads. */
interface Times {
  readonly us: number;
  readonly cpuUs: number;
  /** Runs that count, which nobody disturbed; undefined where they were too few, and all count. */
  readonly undisturbed: number | undefined;
}

/** Undisturbed runs that are enough, and how long they are waited for. */
const enough = 5;
const patienceMs = 6000;

/**
 * Runs all works in turn. Several threads are timed by the wall, so that runs count in which they
 * had the processors nearly to themselves; where others use the machine, those are waited for a
 * while.
 */
function race(device: Device, runs: number, works: readonly (() => void)[]): Times[] {
  const { threads } = device;
  const now = threads === 1 ? threadCpuTimeUs : () => performance.now() * 1e3;
  const all = works.map(() => [] as { us: number; cpuUs: number; share: number }[]);
  const quiet = (i: number) => all[i].filter(({ share }) => threads === 1 || share > 0.95);
  const end = performance.now() + patienceMs;
  const isDone = (run: number): boolean =>
    run >= runs && (performance.now() > end || works.every((_, i) => quiet(i).length >= enough));
  for (let run = -1; !isDone(run); run++) {
    works.forEach((work, i) => {
      const [start, cpu] = [now(), processCpuTimeUs()];
      work();
      const [us, cpuUs] = [now() - start, processCpuTimeUs() - cpu];
      if (run >= 0) all[i].push({ us, cpuUs, share: cpuUs / (us * threads) });
    });
  }
  return all.map((list, i) => {
    const undisturbed = quiet(i).length >= enough ? quiet(i).length : undefined;
    const counted = undisturbed === undefined ? list : quiet(i);
    return {
      us: medianOf(counted.map(({ us }) => us)),
      cpuUs: medianOf(list.map(({ cpuUs }) => cpuUs)),
      undisturbed,
    };
  });
}

/** One line; returns our times. */
function benchShape(
  device: Device,
  shape: Shape,
  limits: { readonly arithmetic: Limit; readonly read: Limit },
  peer: OpenBlas | undefined,
  runs: number,
  print: (line: string) => void,
): Times {
  const { batch, heads, keys } = shape;
  const operations = 2 * batch * keys * heads * (dimQk + headDimV);
  const bytes = 2 * batch * keys * dimQk;
  const works = [limits.arithmetic.run, limits.read.run, makeCall(device, shape)];
  if (peer) works.push(makePeerCall(device, peer, shape));
  const [arithmetic, read, ours, theirs] = race(device, runs, works);
  const peak = limits.arithmetic.amount / arithmetic.us;
  const memory = limits.read.amount / read.us;
  const roofUs = Math.max(operations / peak, bytes / memory);
  const isDisturbed = [arithmetic, read, ours].some(({ undisturbed }) => undisturbed === undefined);
  print(
    `${device.threads}T batch ${batch} heads ${String(heads).padStart(3)} keys ` +
      `${String(keys).padStart(5)}  ${(ours.us / 1e3).toFixed(2).padStart(8)} ms ` +
      `(cpu ${(ours.cpuUs / 1e3).toFixed(2).padStart(8)})  ` +
      `${(operations / ours.us / 1e3).toFixed(0).padStart(4)} GFLOP/s of ${(peak / 1e3).toFixed(0)}  ` +
      `${(bytes / ours.us / 1e3).toFixed(1).padStart(5)} GB/s of ${(memory / 1e3).toFixed(1)}  ` +
      `${((100 * roofUs) / ours.us).toFixed(0).padStart(3)} % of the roof` +
      (theirs ? `  ${(theirs.us / ours.us).toFixed(2)}x OpenBLAS` : "") +
      (isDisturbed ? "  (disturbed by others)" : ""),
  );
  return ours;
}

/** Random bf16: signs and mantissas, magnitudes from 1/32 to 1/16. */
function randomBf16(device: Device, shape: readonly number[], seed: number): Tensor<"bf16"> {
  const tensor = zeros("bf16", shape, device.allocate);
  let bits = seed;
  for (let i = 0; i < tensor.data.length; i++) {
    bits = (Math.imul(bits, 1664525) + 1013904223) >>> 0;
    tensor.data[i] = ((bits >>> 16) & 0x8000) | 0x3d00 | (bits >>> 25);
  }
  return tensor;
}

/** The other functions: sizes of a small and a large call, by operations and what to run. */
interface Other {
  readonly name: string;
  readonly operations: number;
  readonly work: () => void;
}

function sparseCalls(device: Device, isLarge: boolean): Other[] {
  const [queries, heads, topk, keys] = isLarge ? [16, 128, 2048, 8192] : [2, 3, 20, 64];
  const random = new Random(2);
  const list = Int32Array.from({ length: queries * topk }, () => random.below(keys));
  const kv = randomBf16(device, [keys / 64, 64, 1, dimQk], 3);
  const packed = quantiseKvCache(kv, { allocate: device.allocate });
  const q = randomBf16(device, [queries, 1, heads, dimQk], 5);
  const cacheSeqlens = tensorOf("i32", [queries], new Int32Array(queries));
  const metadata = getMlaMetadata(cacheSeqlens, heads, 1, { topk, threads: device.threads });
  const operations = 2 * queries * topk * heads * (dimQk + headDimV);
  // Results are kept: new ones at each call would be timed with the system's zeroing of pages.
  const shape = [queries, 1, heads, headDimV];
  const out = zeros("bf16", shape, device.allocate);
  const lse = zeros("f32", [queries, heads, 1], device.allocate);
  const maxLogits = zeros("f32", [queries, heads], device.allocate);
  const sizes = `${queries} queries, ${heads} heads, ${topk} keys of ${keys}`;
  return [
    {
      name: `sparse decode, FP8 cache: ${sizes}`,
      operations,
      work: () => {
        const { tileSchedulerMetadata, numSplits } = metadata;
        const indices = tensorOf("i32", [queries, 1, topk], list);
        const none = [undefined, undefined, headDimV] as const;
        const options = { isFp8Kvcache: true, indices, out, lse };
        flashMlaWithKvCache(device, q, packed, ...none, tileSchedulerMetadata, numSplits, options);
      },
    },
    {
      name: `sparse prefill, bf16: ${sizes}`,
      operations,
      work: () => {
        const rows = { ...q, shape: [queries, heads, dimQk] };
        const all = { ...kv, shape: [keys, 1, dimQk] };
        const indices = tensorOf("i32", [queries, 1, topk], list);
        flashMlaSparseFwd(device, rows, all, indices, 0.04, headDimV, {
          out: { ...out, shape: [queries, heads, headDimV] },
          lse: { ...lse, shape: [queries, heads], stride: heads },
          maxLogits,
        });
      },
    },
  ];
}

function prefillCalls(device: Device, isLarge: boolean): Other[] {
  const [tokens, heads, qk, vo] = isLarge ? [2048, 16, 192, 128] : [70, 2, 24, 16];
  const [q, k, v, dOut] = [qk, qk, vo, vo].map((width, i) =>
    randomBf16(device, [tokens, heads, width], 7 + i),
  );
  const starts = tensorOf("i32", [2], Int32Array.of(0, tokens));
  const lengths = [starts, starts, tokens, tokens] as const;
  const options = { causal: true };
  const { out, lse } = flashAttnVarlenFunc(device, q, k, v, ...lengths, options);
  const [dq, dk, dv] = [q, k, v].map(({ shape }) => zeros("bf16", shape, device.allocate));
  const gradients = { ...options, dq, dk, dv };
  const pairs = (tokens * (tokens + 1)) / 2;
  const sizes = `${tokens} tokens, ${heads} heads, ${qk}/${vo}, causal`;
  return [
    {
      name: `dense prefill: ${sizes}`,
      operations: 2 * pairs * heads * (qk + vo),
      work: () => flashAttnVarlenFunc(device, q, k, v, ...lengths, { ...options, out, lse }),
    },
    {
      name: `its gradients: ${sizes}`,
      operations: 2 * pairs * heads * (3 * qk + 2 * vo),
      work: () => flashAttnVarlenBackward(device, dOut, q, k, v, out, lse, ...lengths, gradients),
    },
  ];
}

/** Lines of the other functions: their share of the register peak. */
function benchOthers(device: Device, isLarge: boolean, print: (line: string) => void): void {
  const arithmetic = arithmeticLimit(device);
  for (const calls of [sparseCalls, prefillCalls]) {
    for (const { name, operations, work } of calls(device, isLarge)) {
      const [limit, ours] = race(device, isLarge ? 7 : 1, [arithmetic.run, work]);
      const [rate, peak] = [operations / ours.us, arithmetic.amount / limit.us];
      print(
        `${device.threads}T ${name}  ${(ours.us / 1e3).toFixed(2)} ms ` +
          `(cpu ${(ours.cpuUs / 1e3).toFixed(2)})  ${(rate / 1e3).toFixed(0)} GFLOP/s  ` +
          `${((100 * rate) / peak).toFixed(0)} % of the peak`,
      );
    }
  }
}

/** Runs the benchmark, one line of text at a time. */
export async function benchDecode(isLarge: boolean, print: (line: string) => void): Promise<void> {
  const peer = isLarge ? await openPeer(print) : undefined;
  const single = new Map<string, Times>();
  for (const threads of isLarge ? [1, 2] : [1]) {
    const device = openDevice({ threads });
    if (device.isa === undefined) {
      print(`not measured: ${device.description}`);
      return;
    }
    print(`${device.description}; limits are measured in turn with every line`);
    const limits = { arithmetic: arithmeticLimit(device), read: readLimit(device) };
    for (const heads of isLarge ? [16, 128] : [3]) {
      for (const keys of isLarge ? [1024, 4096, 16384] : [70]) {
        const shape = { batch: isLarge ? 32 : 2, heads, keys };
        const fits = keys <= 4096 ? peer : undefined;
        const runs = isLarge ? (keys > 4096 ? 5 : 11) : 1;
        const times = benchShape(device, shape, limits, fits, runs, print);
        const name = `${heads} heads, ${keys} keys`;
        const before = single.get(name);
        if (before) {
          const [speed, cost] = [before.us / times.us, times.cpuUs / before.cpuUs];
          print(
            `   two threads: ${speed.toFixed(2)}x one, ${cost.toFixed(2)}x its processor time` +
              (times.undisturbed === undefined ? " (disturbed by others)" : ""),
          );
        } else {
          single.set(name, times);
        }
      }
    }
    if (threads === 1) benchOthers(device, isLarge, print);
    device.close();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await benchDecode(process.argv.includes("--large"), console.log);
}
