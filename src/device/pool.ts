/**
 * @file The fork-join pool: memory, code and threads put together. `pool-layout.ts` has the
 * protocol.
 */
import { alignUp } from "../base/index.ts";
import {
  addressOf,
  callable,
  callableOfThree,
  currentProcessor,
  currentThreadId,
  freeCode,
  joinThread,
  loadCode,
  map,
  startThread,
  unmap,
  viewAt,
  wakeAll,
} from "../native/index.ts";
import { emitHelper, emitLaunchers, emitReadTicks } from "./pool-code.ts";
import { layout, slotBytes } from "./pool-layout.ts";

/** What a pool is made of. */
export interface PoolOptions {
  /** Threads wanted, the calling one included. */
  readonly threads: number;
  /** Bytes of scratch for each. */
  readonly scratchBytes: number;
  /** Microseconds to spin before sleeping: helpers for a job, the launcher for its end. */
  readonly spinUs: number;
  /** Whether there is a processor for every thread, so that helpers keep off the launcher's. */
  readonly processorEach: boolean;
  /**
   * For tests: threads dawdle between the protocol's steps, so that rare interleavings are common.
   */
  readonly dawdling?: boolean;
}

/** A pool whose helpers run. */
export interface Pool {
  /** Threads granted: fewer than wanted where the system refused some. */
  readonly threads: number;
  /** Runs `kernel(argumentBlock, index, scratch)` for each index below `tasks` (at least 1). */
  launch(kernel: number, argumentBlock: number, tasks: number): void;
  /** Runs `count` jobs (at least 1) that lie at address `jobs`, one after the other. */
  launchList(jobs: number, count: number): void;
  /** Ends the helpers and frees everything; nothing may be launched afterwards. */
  close(): void;
}

const hugePageBytes = 2 * 2 ** 20;
/** Seconds between a sleeping helper's looks at whether its owner lives. */
const checkIntervalS = 1;

interface Stubs {
  /** Address of the code that helpers run. */
  readonly helper: number;
  readonly launch: (block: number) => void;
  readonly launchAlone: (block: number) => void;
  readonly launchList: (block: number, jobs: number, count: number) => void;
  readonly launchListAlone: (block: number, jobs: number, count: number) => void;
}

const stubs = new Map<boolean, Stubs>();

/**
 * The pool's machine code, loaded once per thread and kept, as helpers may run it to the very end.
 */
function stubsFor(dawdling: boolean): Stubs {
  let loaded = stubs.get(dawdling);
  if (loaded === undefined) {
    const { code, ...at } = emitLaunchers(dawdling);
    const address = loadCode(code);
    loaded = {
      helper: loadCode(emitHelper(dawdling)),
      launch: callable(address + at.launch),
      launchAlone: callable(address + at.launchAlone),
      launchList: callableOfThree(address + at.launchList),
      launchListAlone: callableOfThree(address + at.launchListAlone),
    };
    stubs.set(dawdling, loaded);
  }
  return loaded;
}

let ticksPerUs: number | undefined;

/**
 * Time-stamp ticks per microsecond, from two looks at both clocks; a few per cent are good enough.
 */
function measureTicksPerUs(): number {
  const code = emitReadTicks();
  const codeAddress = loadCode(code);
  const readTicks = callable(codeAddress);
  const out = new Uint32Array(2);
  const address = addressOf(out);
  const ticks = (): number => {
    readTicks(address);
    return out[0] + out[1] * 2 ** 32;
  };
  const [startMs, start] = [performance.now(), ticks()];
  while (performance.now() < startMs + 0.2);
  const [endMs, end] = [performance.now(), ticks()];
  freeCode(codeAddress, code.length);
  return (end - start) / ((endMs - startMs) * 1e3);
}

/** Writes `value`, a safe non-negative integer, as 64 bits at byte `offset`. */
function writeInt64(words: Uint32Array, offset: number, value: number): void {
  words[offset >> 2] = value;
  words[(offset >> 2) + 1] = value / 2 ** 32;
}

/** Starts a pool that the calling thread launches on. */
export function openPool(options: PoolOptions): Pool {
  const { threads, scratchBytes, spinUs, processorEach, dawdling = false } = options;
  const { helper, launch, launchAlone, launchList, launchListAlone } = stubsFor(dawdling);
  ticksPerUs ??= measureTicksPerUs();
  const blockBytes = layout.slots + threads * slotBytes;
  const block = map(blockBytes);
  // Huge pages need 2 MiB alignment, which a mapping does not have by itself.
  const stride = alignUp(scratchBytes, 64);
  const scratchMapBytes = alignUp(threads * stride, hugePageBytes) + hugePageBytes;
  const scratchMap = map(scratchMapBytes);
  const scratch = alignUp(scratchMap, hugePageBytes);

  const words = new Uint32Array(viewAt(block, alignUp(blockBytes, 4)));
  words[layout.ownerProcess >> 2] = process.pid;
  words[layout.ownerThread >> 2] = currentThreadId();
  words[layout.launcherProcessor >> 2] = currentProcessor();
  words[layout.helpersMoveAway >> 2] = Number(processorEach);
  writeInt64(words, layout.helperSpinTicks, Math.round(spinUs * ticksPerUs));
  writeInt64(words, layout.launcherSpinTicks, Math.round(spinUs * ticksPerUs));
  writeInt64(words, layout.launcherScratch, scratch);
  writeInt64(words, layout.checkInterval, checkIntervalS);

  const handles: number[] = [];
  for (let i = 0; i < threads - 1; i++) {
    const slot = layout.slots + i * slotBytes;
    writeInt64(words, slot, block);
    writeInt64(words, slot + 8, scratch + (i + 1) * stride);
    const handle = startThread(helper, block + slot);
    if (handle === undefined) break;
    handles.push(handle);
  }
  return {
    threads: handles.length + 1,
    launch(kernel, argumentBlock, tasks) {
      writeInt64(words, layout.kernel, kernel);
      writeInt64(words, layout.arguments, argumentBlock);
      words[layout.tasks >> 2] = tasks;
      if (tasks === 1 || handles.length === 0) launchAlone(block);
      else launch(block);
    },
    launchList(jobs, count) {
      if (handles.length === 0) launchListAlone(block, jobs, count);
      else launchList(block, jobs, count);
    },
    close() {
      Atomics.store(words, layout.stop >> 2, 1);
      Atomics.add(words, layout.epoch >> 2, 1);
      wakeAll(block + layout.epoch);
      for (const handle of handles) joinThread(handle);
      unmap(block, blockBytes);
      unmap(scratchMap, scratchMapBytes);
    },
  };
}
