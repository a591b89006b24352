/**
 * @file The targets of this room, row by row, beside peers and this machine's limits: all that a row
 * compares is run in turn, in this process, and medians are compared. With one thread the time is
 * the process's processor time, with two the wall's; both are printed. Where others use the
 * machine, a wall's median says little about two threads: the first quartile stands behind it.
 * Peers that are not here print the line that installs them. Only with `--large`.
 */
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { ceilDiv, medianOf, Random } from "../base/index.ts";
import { type Device, openDevice } from "../device/index.ts";
import { processCpuTimeUs } from "../native/index.ts";
import { type BlockScaled, f32ToBf16, type Tensor, zeros } from "../tensor/index.ts";
import {
  fp8GemmNt,
  fp8MqaLogits,
  gemm,
  kGroupedBf16GemmTnContiguous,
  mGroupedFp8GemmNtMasked,
  type PackedWeights,
  packWeights,
  perTokenCastToFp8,
  prepareGemm,
} from "./index.ts";
import { arithmeticLimit, limitTasks, readLimit } from "./testing-limits.ts";
import { prepareLaunch } from "./x86.ts";

/** Something that is timed: what it does at a time, in floating-point operations or bytes. */
interface Contender {
  readonly name: string;
  readonly amount: number;
  readonly run: () => unknown;
  readonly prepare?: () => void;
  /** Whether its threads spin for a while after their work, so that the next one has to wait. */
  readonly isPeer?: boolean;
}

/** Medians of a contender. */
interface Result {
  readonly wallUs: number;
  readonly cpuUs: number;
  /** Operations or bytes per microsecond, by the clock that counts. */
  readonly rate: number;
  /** The same in the quietest quarter of the runs; with one thread it is not asked for. */
  readonly quietRate: number | undefined;
}

type Print = (line: string) => void;

const folder = resolve(dirname(fileURLToPath(import.meta.url)), "../../peers");
/** Longer than threads of peers spin after their work; our helpers sleep by then. */
const settleMs = 30;

interface OpenBlas {
  sgemmNt(call: object): () => void;
}
interface OneDnn {
  matmulNt(call: object): () => void;
}
interface OnnxRuntime {
  matmul(call: object): Promise<() => Promise<unknown>>;
}

/** A peer, or undefined once its absence is printed. */
async function open<T>(file: string, opener: string, print: Print): Promise<T | undefined> {
  const module = await import(pathToFileURL(join(folder, file)).href);
  const peer = await module[opener]();
  print(`peer: ${peer.absent ?? peer.name}`);
  return peer.absent ? undefined : peer;
}

/** Runs all contenders in turn. */
async function race(
  threads: number,
  runs: number,
  contenders: readonly Contender[],
): Promise<Map<string, Result>> {
  const settles = threads > 1 && contenders.some(({ isPeer }) => isPeer);
  const times = contenders.map(() => ({ wall: [] as number[], cpu: [] as number[] }));
  for (let run = -1; run < runs; run++) {
    for (const [i, contender] of contenders.entries()) {
      contender.prepare?.();
      if (settles) {
        await new Promise((resume) => setTimeout(resume, settleMs));
        // So that helpers are awake, as in a forward pass.
        const warm = contender.run();
        if (warm instanceof Promise) await warm;
        contender.prepare?.();
      }
      const [startMs, startCpu] = [performance.now(), processCpuTimeUs()];
      const pending = contender.run();
      if (pending instanceof Promise) await pending;
      if (run < 0) continue;
      times[i].cpu.push(processCpuTimeUs() - startCpu);
      times[i].wall.push((performance.now() - startMs) * 1e3);
    }
  }
  return new Map(
    contenders.map(({ name, amount }, i) => {
      const [wallUs, cpuUs] = [medianOf(times[i].wall), medianOf(times[i].cpu)];
      const walls = times[i].wall.toSorted((x, y) => x - y);
      const quietUs = threads === 1 ? undefined : walls[Math.floor(walls.length / 4)];
      return [
        name,
        {
          wallUs,
          cpuUs,
          rate: amount / (threads === 1 ? cpuUs : wallUs),
          quietRate: quietUs && amount / quietUs,
        },
      ];
    }),
  );
}

function percent(part: Result, whole: Result): string {
  return compared(part, whole, (ratio) => `${(100 * ratio).toFixed(0)} %`);
}

function times(ours: Result, theirs: Result): string {
  return compared(ours, theirs, (ratio) => `${ratio.toFixed(2)}x`);
}

function compared(x: Result, y: Result, format: (ratio: number) => string): string {
  const quiet = x.quietRate && y.quietRate && format(x.quietRate / y.quietRate);
  return `${format(x.rate / y.rate)}${quiet ? ` [quiet ${quiet}]` : ""}`;
}

/** Operands of one shape in every dtype. */
class Operands {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  private readonly device: Device;
  private readonly random = new Random(1);

  constructor(device: Device, m: number, n: number, k: number) {
    this.device = device;
    this.m = m;
    this.n = n;
    this.k = k;
  }

  get operations(): number {
    return 2 * this.m * this.n * this.k;
  }

  f32(rows: number, columns: number): Tensor<"f32"> {
    const tensor = zeros("f32", [rows, columns], (bytes) => this.device.allocate(bytes));
    for (let i = 0; i < tensor.data.length; i++) tensor.data[i] = this.random.uniform() - 0.5;
    return tensor;
  }

  bf16(rows: number, columns: number): Tensor<"bf16"> {
    const tensor = zeros("bf16", [rows, columns], (bytes) => this.device.allocate(bytes));
    for (let i = 0; i < tensor.data.length; i++) {
      tensor.data[i] = f32ToBf16(this.random.uniform() - 0.5);
    }
    return tensor;
  }

  fp8(shape: number[], blockRows: 1 | 128): BlockScaled {
    const allocate = (bytes: number) => this.device.allocate(bytes);
    const codes = zeros("f8e4m3", shape, allocate);
    for (let i = 0; i < codes.data.length; i++) codes.data[i] = this.random.below(0x7f);
    const [n, k] = shape.slice(-2);
    const rest = shape.slice(0, -2);
    const scales = zeros("f32", [...rest, ceilDiv(n, blockRows), ceilDiv(k, 128)], allocate);
    scales.data.fill(1);
    return { codes, scales };
  }

  pack(b: Tensor<"f32"> | Tensor<"bf16"> | BlockScaled, activation: "f32" | "bf16" | "f8e4m3") {
    const matrix = "codes" in b ? { weight: b.codes, scales: b.scales } : { weight: b };
    return packWeights(this.device, [matrix as never], activation);
  }

  output(): Tensor<"f32"> {
    return zeros("f32", [this.m, this.n], (bytes) => this.device.allocate(bytes));
  }
}

/** Arithmetic between registers, as a contender. */
function peakOf(device: Device, dot: boolean): Contender {
  const { kernel, args, amount } = arithmeticLimit(device, dot);
  const tasks = limitTasks * device.threads;
  const run = () => device.launch(kernel, args.address, tasks);
  return { name: "peak", amount: amount * tasks, run };
}

/** Reading memory, as a contender. */
function readingOf(device: Device): Contender {
  const { kernel, args, amount, prepare } = readLimit(device);
  const tasks = limitTasks * device.threads;
  const run = () => device.launch(kernel, args.address, tasks);
  return { name: "read", amount: amount * tasks, run, prepare };
}

function clocks(result: Result): string {
  const ms = (us: number) => (us / 1e3).toFixed(2);
  return `(wall ${ms(result.wallUs)} ms, cpu ${ms(result.cpuUs)} ms)`;
}

/** The row of bf16: share of the peak, oneDNN, OpenBLAS; and f32, which has the same peers. */
async function denseRows(
  device: Device,
  m: number,
  peers: { blas?: OpenBlas | undefined; dnnl?: OneDnn | undefined },
  print: Print,
): Promise<void> {
  const { threads } = device;
  const operands = new Operands(device, m, 4096, 4096);
  const { n, k, operations: amount } = operands;
  const [a32, b32] = [operands.f32(m, k), operands.f32(n, k)];
  const [a16, b16] = [operands.bf16(m, k), operands.bf16(n, k)];
  const [p32, p16] = [operands.pack(b32, "f32"), operands.pack(b16, "bf16")];
  const d = operands.output();
  const shape = { m, n, k, d: d.address, threads };
  const call32 = { ...shape, dtype: "f32", a: a32.address, b: b32.address };
  const call16 = { ...shape, dtype: "bf16", a: a16.address, b: b16.address };
  const contenders: Contender[] = [
    peakOf(device, true),
    {
      name: "bf16",
      amount,
      run: () => gemm(device, [{ a: { type: "bf16", values: a16 }, m, b: p16, d }]),
    },
    {
      name: "f32",
      amount,
      run: () => gemm(device, [{ a: { type: "f32", values: a32 }, m, b: p32, d }]),
    },
  ];
  const { blas, dnnl } = peers;
  if (blas) contenders.push({ name: "sgemm", amount, run: blas.sgemmNt(call32), isPeer: true });
  if (dnnl)
    contenders.push({ name: "dnnl bf16", amount, run: dnnl.matmulNt(call16), isPeer: true });
  if (dnnl) contenders.push({ name: "dnnl f32", amount, run: dnnl.matmulNt(call32), isPeer: true });
  const results = await race(threads, threads === 1 ? 9 : 15, contenders);
  const of = (name: string) => results.get(name);
  const against = (ours: Result, name: string) => {
    const theirs = of(name);
    return theirs ? times(ours, theirs) : "absent";
  };
  const [bf16, f32, peak] = [of("bf16")!, of("f32")!, of("peak")!];
  print(
    `${threads}T bf16 ${m} x 4096 x 4096: ${percent(bf16, peak)} of vdpbf16ps (target 92); ` +
      `${against(bf16, "dnnl bf16")} oneDNN bf16 (1.0); ` +
      `${against(bf16, "sgemm")} OpenBLAS sgemm (2) ${clocks(bf16)}`,
  );
  print(
    `${threads}T f32 ${m} x 4096 x 4096: ${against(f32, "sgemm")} OpenBLAS (1.0); ` +
      `${against(f32, "dnnl f32")} oneDNN f32 ${clocks(f32)}`,
  );
}

async function fp8Rows(device: Device, ort: OnnxRuntime | undefined, print: Print): Promise<void> {
  const { threads } = device;
  const [n, k] = [4096, 4096];
  const weights = new Operands(device, 1, n, k);
  const b = weights.fp8([n, k], 128);
  // More than the caches hold, by turns.
  const packed = Array.from({ length: 12 }, () => weights.pack(b, "f8e4m3"));
  let turn = 0;
  const next = (): PackedWeights => packed[turn++ % packed.length];
  const raw = ort ? weights.f32(k, n).data : undefined;
  for (const m of [1, 4, 8, 16, 32, 128, 512]) {
    const operands = new Operands(device, m, n, k);
    const a = operands.fp8([m, k], 1);
    const d = operands.output();
    const amount = m === 1 ? packed[0].bytes : operands.operations;
    const contenders: Contender[] = [
      m === 1 ? readingOf(device) : peakOf(device, true),
      { name: "fp8", amount, run: () => fp8GemmNt(device, a, next(), d) },
    ];
    if (ort && raw && m >= 128) {
      const left = operands.f32(m, k).data;
      const run = await ort.matmul({ m, n, k, a: left, w: raw, threads });
      contenders.push({ name: "ort", amount, run, isPeer: true });
    }
    const results = await race(threads, m < 100 ? 25 : threads === 1 ? 9 : 15, contenders);
    const fp8 = results.get("fp8")!;
    if (m === 1) {
      const rate = `${(fp8.rate / 1e3).toFixed(1)} GB/s`;
      const share = percent(fp8, results.get("read")!);
      print(`${threads}T FP8 GEMV ${n} x ${k}: ${share} of reading (85), ${rate} ${clocks(fp8)}`);
      continue;
    }
    const target = m < 100 ? 60 : 88;
    const theirs = results.get("ort");
    const ratio = theirs ? `; ${times(fp8, theirs)} onnxruntime f32 (2.3)` : "";
    const share = percent(fp8, results.get("peak")!);
    const name = `${threads}T FP8 ${m} x ${n} x ${k}, operands decoded inside`;
    print(`${name}: ${share} of vdpbf16ps (${target})${ratio} ${clocks(fp8)}`);
  }
}

async function maskedRows(device: Device, print: Print): Promise<void> {
  const { threads } = device;
  const [experts, n, k] = [32, 2816, 2048];
  const operands = new Operands(device, 64, n, k);
  const b = operands.fp8([n, k], 128);
  const packed = Array.from({ length: experts }, () => operands.pack(b, "f8e4m3"));
  for (const m of [4, 16, 64]) {
    const a = operands.fp8([experts, m, k], 1);
    const d = zeros("f32", [experts, m, n], (bytes) => device.allocate(bytes));
    const maskedM = zeros("i32", [experts]);
    maskedM.data.fill(m);
    const one = (i: number) => ({
      a: {
        codes: { ...a.codes, ...part(a.codes, i, [m, k]) },
        scales: { ...a.scales, ...part(a.scales, i, [m, k / 128]) },
      },
      d: { ...d, ...part(d, i, [m, n]) },
    });
    const calls = packed.map((weights, i) => ({ ...one(i), weights }));
    const amount = 2 * experts * m * n * k;
    const results = await race(threads, threads === 1 ? 9 : 15, [
      peakOf(device, true),
      {
        name: "dense",
        amount,
        run: () => {
          for (const call of calls) fp8GemmNt(device, call.a, call.weights, call.d);
        },
      },
      {
        name: "masked",
        amount,
        run: () => mGroupedFp8GemmNtMasked(device, a, packed, d, maskedM, m),
      },
    ]);
    const [masked, dense] = [results.get("masked")!, results.get("dense")!];
    print(
      `${threads}T masked, ${experts} experts of ${n} x ${k}, ${m} rows each: ` +
        `${percent(masked, dense)} of the dense rate on the same rows (85), ` +
        `${percent(masked, results.get("peak")!)} of vdpbf16ps ${clocks(masked)}`,
    );
  }
}

/** What has no target: weight gradients, the indexer's logits, casts. */
async function otherRows(device: Device, print: Print): Promise<void> {
  const { threads } = device;
  const allocate = (bytes: number) => device.allocate(bytes);
  const peak = peakOf(device, true);
  const [m, n, ks] = [1024, 2048, [256, 0, 512, 1280]];
  const k = 2048;
  const gradient = new Operands(device, m, n, k);
  const [left, right] = [gradient.bf16(k, m), gradient.bf16(k, n)];
  const to = zeros("f32", [ks.length, m, n], allocate);
  const layout = zeros("i32", [ks.length]);
  layout.data.set(ks);
  const [queries, heads, depth, keys] = [64, 64, 128, 8192];
  const q = gradient.fp8([queries, heads, depth], 1).codes;
  const kv = {
    codes: gradient.fp8([keys, depth], 1).codes,
    scales: zeros("f32", [keys], allocate),
  };
  kv.scales.data.fill(1);
  const weights = gradient.f32(queries, heads);
  const [starts, ends] = [zeros("i32", [queries]), zeros("i32", [queries])];
  ends.data.fill(keys);
  const x = gradient.bf16(2048, 7168);
  const cast = perTokenCastToFp8(device, x, true);
  const results = await race(threads, 7, [
    peak,
    {
      name: "gradient",
      amount: gradient.operations,
      run: () => kGroupedBf16GemmTnContiguous(device, left, right, to, ks, layout, to),
    },
    {
      name: "logits",
      amount: 2 * queries * heads * depth * keys,
      run: () => fp8MqaLogits(device, q, kv, weights, starts, ends, false),
    },
    readingOf(device),
    {
      name: "cast",
      amount: x.data.byteLength,
      run: () => perTokenCastToFp8(device, x, true, cast),
    },
  ]);
  const of = (name: string) => results.get(name)!;
  const share = (name: string) => `${percent(of(name), of("peak"))} of vdpbf16ps`;
  print(
    `${threads}T k-grouped bf16, 3 groups of 2048 rows in all, ${m} x ${n}, operands packed ` +
      `inside: ${share("gradient")} ${clocks(of("gradient"))}`,
  );
  print(
    `${threads}T MQA logits, ${queries} x ${heads} x ${depth} over ${keys} keys, packed inside: ` +
      `${share("logits")} ${clocks(of("logits"))}`,
  );
  const read = percent(of("cast"), of("read"));
  print(`${threads}T cast per token, bf16 2048 x 7168: ${read} of reading ${clocks(of("cast"))}`);
}

function part(tensor: Tensor, index: number, shape: readonly number[]) {
  const start = index * shape[0] * tensor.stride;
  const data = tensor.data.subarray(start) as never;
  const address = tensor.address + start * tensor.data.BYTES_PER_ELEMENT;
  return { shape, data, address };
}

async function scalingRows(devices: readonly [Device, Device], print: Print): Promise<void> {
  for (const type of ["bf16", "f8e4m3", "f32"] as const) {
    const contenders = devices.map((device): Contender => {
      const operands = new Operands(device, 512, 4096, 4096);
      const { m, n, k } = operands;
      const d = operands.output();
      if (type === "f8e4m3") {
        const [a, b] = [operands.fp8([m, k], 1), operands.pack(operands.fp8([n, k], 128), type)];
        const run = () => fp8GemmNt(device, a, b, d);
        return { name: `${device.threads}`, amount: operands.operations, run };
      }
      const values = operands[type](m, k);
      const b = operands.pack(operands[type](n, k), type);
      const a = { type, values } as Parameters<typeof gemm>[1][number]["a"];
      const run = () => gemm(device, [{ a, m, b, d }]);
      return { name: `${device.threads}`, amount: operands.operations, run };
    });
    // By the wall for both.
    const results = await race(2, 15, contenders);
    const [one, two] = [results.get("1")!, results.get("2")!];
    // What two threads would give were both never interrupted.
    const ideal = ((2 * one.cpuUs) / two.cpuUs).toFixed(2);
    print(
      `two threads, ${type} 512 x 4096 x 4096: ${times(two, one)} one (1.9); ` +
        `${ideal}x by processor time ${clocks(one)} to ${clocks(two)}`,
    );
  }
}

/** What a call costs beyond its machine code: the same code from a loop of machine code. */
function overheadRow(device: Device, print: Print): void {
  const operands = new Operands(device, 1, 64, 2);
  const b = operands.pack(operands.f32(64, 2), "f32");
  const [a, d] = [operands.f32(1, 2), operands.output()];
  const group = { a: { type: "f32" as const, values: a }, m: 1, b, d };
  const prepared = prepareGemm(device, [group]);
  const launch = prepareLaunch(device, device.isa!, [group]);
  const calls = 20_000;
  const us: Record<string, number[]> = { plain: [], prepared: [], inside: [] };
  const time = (name: string, run: () => void) => {
    const start = processCpuTimeUs();
    run();
    us[name].push((1e3 * (processCpuTimeUs() - start)) / calls);
  };
  const groups = [group];
  for (let run = 0; run < 15; run++) {
    time("plain", () => {
      for (let i = 0; i < calls; i++) gemm(device, groups);
    });
    time("prepared", () => {
      for (let i = 0; i < calls; i++) prepared.run();
    });
    time("inside", () => launch.repeat(calls));
  }
  const [plain, ready, inside] = [us.plain, us.prepared, us.inside].map((list) =>
    medianOf(list.slice(3)),
  );
  print(
    `call overhead beyond machine code (${inside.toFixed(0)} ns, 1 x 64 x 2): ` +
      `prepared ${(ready - inside).toFixed(0)} ns (100), checked and laid out at each call ` +
      `${(plain - inside).toFixed(0)} ns, processor time`,
  );
}

/** Prints every row. */
async function benchTargets(print: Print): Promise<void> {
  const probe = openDevice();
  if (probe.isa === undefined) {
    print(`not measured: ${probe.description}`);
    return;
  }
  probe.close();
  const blas = await open<OpenBlas>("openblas.js", "openOpenblas", print);
  const dnnl = await open<OneDnn>("onednn.js", "openOnednn", print);
  const ort = await open<OnnxRuntime>("onnxruntime.js", "openOnnxruntime", print);
  const devices = [openDevice({ threads: 1 }), openDevice({ threads: 2 })] as const;
  print(`${devices[0].description}; targets in brackets`);
  overheadRow(devices[0], print);
  await scalingRows(devices, print);
  for (const device of devices) {
    for (const m of [128, 512]) await denseRows(device, m, { blas, dnnl }, print);
    await fp8Rows(device, ort, print);
    await maskedRows(device, print);
    await otherRows(device, print);
  }
  for (const device of devices) device.close();
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv.includes("--large")) {
  await benchTargets(console.log);
}
