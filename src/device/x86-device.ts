/** @file The processor as a device: native memory, loaded code, the fork-join pool. */
import { isMainThread } from "node:worker_threads";
import { assert } from "../base/index.ts";
import { allocateMemory, freeCode, loadCode } from "../native/index.ts";
import type { Device, Isa, LaunchList } from "./device.ts";
import { openPool, type Pool } from "./pool.ts";
import { usableProcessors } from "./processors.ts";
import { recorderOf, recordLaunches } from "./recording.ts";

/** What `openDevice` has decided. */
export interface X86Options {
  readonly isa: Isa;
  readonly threads: number;
  readonly scratchBytes: number;
  readonly spinUs: number | undefined;
  /** See `PoolOptions`. */
  readonly dawdling?: boolean;
}

/**
 * About what waking a thread costs where its processor has gone to rest (80 us on a virtual
 * machine).
 */
const defaultSpinUs = 100;

interface LoadedCode {
  readonly address: number;
  readonly bytes: number;
}

/**
 * What a worker has open. The process's end needs no help, but a worker that ends would leave
 * memory behind. (One that is terminated does: its helpers end by themselves, their memory stays.)
 */
const openInWorker = new Set<Holdings>();

function closeAll(): void {
  for (const holdings of [...openInWorker]) holdings.close();
}

/**
 * What ends with a device, apart from it, so that it can be ended when the device is unreachable.
 */
class Holdings {
  readonly pool: Pool;
  readonly codes: LoadedCode[] = [];
  closed = false;

  constructor(pool: Pool) {
    this.pool = pool;
    if (isMainThread) return;
    if (openInWorker.size === 0) process.on("exit", closeAll);
    openInWorker.add(this);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    if (openInWorker.delete(this) && openInWorker.size === 0) process.off("exit", closeAll);
    this.pool.close();
    for (const { address, bytes } of this.codes) freeCode(address, bytes);
  }
}

const closedWithDevice = new FinalizationRegistry<Holdings>((holdings) => holdings.close());

class X86Device implements Device {
  readonly rung = "x86" as const;
  readonly isa: Isa;
  readonly threads: number;
  readonly description: string;
  readonly scratchBytes: number;
  private readonly holdings: Holdings;

  constructor(isa: Isa, pool: Pool, scratchBytes: number) {
    this.isa = isa;
    this.threads = pool.threads;
    this.description = `x86 (${isa}), ${pool.threads} thread${pool.threads === 1 ? "" : "s"}`;
    this.scratchBytes = scratchBytes;
    this.holdings = new Holdings(pool);
    closedWithDevice.register(this, this.holdings);
  }

  allocate(bytes: number): ArrayBuffer {
    return allocateMemory(bytes);
  }

  load(code: Uint8Array, name: string): number {
    const { holdings } = this;
    assert(!holdings.closed, () => `load of ${name}: the device is closed`);
    assert(code.length > 0, () => `load of ${name}: got no code`);
    const address = loadCode(code);
    holdings.codes.push({ address, bytes: code.length });
    return address;
  }

  launch(kernelAddress: number, argumentBlockAddress: number, tasks: number): void {
    const { holdings } = this;
    // Tested before the message is built: a launch costs little more than this.
    if (holdings.closed || !(kernelAddress > 0) || !(tasks >= 0 && tasks <= 0x7fffffff)) {
      assert(!holdings.closed, "launch: the device is closed");
      assert(kernelAddress > 0, `kernel of a launch: got address ${kernelAddress}`);
      assert(false, `tasks of a launch: got ${tasks}, wanted 0 to 2^31 - 1`);
    }
    if (tasks === 0) return;
    const recorder = recorderOf(this);
    if (recorder === undefined) holdings.pool.launch(kernelAddress, argumentBlockAddress, tasks);
    else recorder.add(kernelAddress, argumentBlockAddress, tasks);
  }

  record(body: () => void): LaunchList {
    const { holdings } = this;
    const list = recordLaunches(this, body);
    return {
      launches: list.count,
      run() {
        assert(!holdings.closed, "run of recorded launches: the device is closed");
        if (list.count > 0) holdings.pool.launchList(list.address, list.count);
      },
    };
  }

  close(): void {
    this.holdings.close();
  }
}

/** Opens it. */
export function openX86({ isa, spinUs, ...options }: X86Options): Device {
  const processorEach = options.threads <= usableProcessors();
  const defaultUs = processorEach ? defaultSpinUs : 0;
  const pool = openPool({ ...options, processorEach, spinUs: spinUs ?? defaultUs });
  return new X86Device(isa, pool, options.scratchBytes);
}
