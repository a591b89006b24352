/**
 * @file This machine's limits, as loops that reach them: arithmetic between registers, and reading
 * memory. What this room's benchmarks measure kernels by, in turn with them.
 */
import { Assembler, hasAvx512, mem, r8, rax, rdi, rsi, ymm, zmm } from "../codegen/index.ts";
import { ArgumentBlock, type Device } from "../device/index.ts";
import { addressOf, threadCpuTimeUs } from "../native/index.ts";
import { zeros } from "../tensor/index.ts";

/** Bytes that are read at a time, of a buffer that caches do not hold. */
const readBytes = 64 * 2 ** 20;
const bufferBytes = 4 * readBytes;
/** Tasks of a limit's launch for each thread: as many as let a thread that comes late catch up. */
export const limitTasks: number = 8;

/** Loops that reach a limit, as kernels: operations or bytes per task. */
export interface Limit {
  readonly kernel: number;
  readonly args: ArgumentBlock;
  readonly amount: number;
  /** Called before each launch. */
  readonly prepare: () => void;
}

/** Multiply-adds between registers: `vdpbf16ps` where the instruction set has it and `dot` asks. */
export function arithmeticLimit(device: Device, dot: boolean): Limit {
  const isa = device.isa!;
  const asm = new Assembler();
  const vec = hasAvx512(isa) ? zmm : ymm;
  const sums = hasAvx512(isa) ? 24 : 12;
  const isDot = dot && isa === "avx512-bf16";
  const turns = 15_000;
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
  const amount = turns * sums * (vec(0).bits / 32) * (isDot ? 4 : 2);
  const kernel = device.load(asm.finish(), "arithmetic limit");
  return { kernel, args: new ArgumentBlock(device, 64), amount, prepare: () => {} };
}

/** Reads a share of a large buffer per task, the next part of it at each launch. */
export function readLimit(device: Device): Limit {
  const memory = zeros("f32", [bufferBytes / 4], (bytes) => device.allocate(bytes));
  memory.data.fill(1);
  const asm = new Assembler();
  const vec = hasAvx512(device.isa!) ? zmm : ymm;
  const bytes = vec(0).bits / 8;
  const share = Math.floor(readBytes / (limitTasks * device.threads) / 4096) * 4096;
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
  const args = new ArgumentBlock(device, 64);
  let launches = 0;
  const prepare = () => {
    const offset = (launches++ * readBytes) % bufferBytes;
    args.setAddress(0, addressOf(memory.data) + offset);
  };
  return { kernel: device.load(asm.finish(), "read limit"), args, amount: share, prepare };
}

/** Time of one call in microseconds: the thread's own where there is one, else the wall's. */
export function timeOf(device: Device, work: () => void): number {
  const now = device.threads === 1 ? threadCpuTimeUs : () => performance.now() * 1e3;
  const start = now();
  work();
  return now() - start;
}

/** Time of one launch of `limit`, see `timeOf`. */
export function timeOfLimit(device: Device, { kernel, args, prepare }: Limit): number {
  prepare();
  return timeOf(device, () => device.launch(kernel, args.address, limitTasks * device.threads));
}
