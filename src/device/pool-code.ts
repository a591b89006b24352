/** @file The pool's machine code: what a helper runs all its life, and the ways to launch. */
import {
  Assembler,
  type Label,
  type Mem,
  mem,
  r10,
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
  rsp,
} from "../codegen/index.ts";
import { layout } from "./pool-layout.ts";

const syscallFutex = 202;
const syscallTgkill = 234;
const syscallSetAffinity = 203;
const syscallGetAffinity = 204;
const syscallGetProcessor = 309;
/** Bytes of an affinity mask: 1024 processors, the C library's limit. */
const affinityBytes = 128;
const futexWaitPrivate = 128;
const futexWakePrivate = 129;
const errorTimedOut = -110;
const errorNoSuchThread = -3;

/** Registers that hold across calls, in the order they are saved. */
const kept = [rbx, rbp, r12, r13, r14, r15];
/** The control block. */
const block = rbx;
/** This thread's scratch. */
const scratch = r12;
/** When to stop spinning, in time-stamp ticks. */
const deadline = r13;
/** Tasks that this thread has run and not reported. */
const done = r14.d;
/** The processor that this helper keeps off. */
const avoided = r15.d;

function field(name: keyof typeof layout): Mem {
  return mem(block, { disp: layout[name] });
}

/** Saves the caller's registers and aligns the stack to 16 bytes, as calls demand. */
function enter(asm: Assembler): void {
  for (const register of kept) asm.push(register);
  asm.sub(rsp, 8);
}

function leave(asm: Assembler): void {
  // Kernels may leave the vector registers' upper parts in use, which slows down the caller's SSE.
  asm.vzeroupper();
  asm.add(rsp, 8);
  for (const register of kept.toReversed()) asm.pop(register);
  asm.ret();
}

function readTicks(asm: Assembler): void {
  asm.rdtsc();
  asm.shl(rdx, 32);
  asm.or(rax, rdx);
}

function setDeadline(asm: Assembler, spinTicks: Mem): void {
  readTicks(asm);
  asm.add(rax, spinTicks);
  asm.mov(deadline, rax);
}

/** Jumps back to `again` until the deadline. */
function spinTo(asm: Assembler, again: Label): void {
  asm.pause();
  readTicks(asm);
  asm.cmp(rax, deadline);
  asm.jb(again);
}

/** Wakes up to edx threads that wait on `word`. */
function futexWake(asm: Assembler, word: Mem): void {
  asm.lea(rdi, word);
  asm.mov(rsi.d, futexWakePrivate);
  asm.mov(rax.d, syscallFutex);
  asm.syscall();
}

/** Where the protocol could be interleaved otherwise; a test makes threads dawdle there. */
type Dawdle = (asm: Assembler) => void;

/**
 * Waits, once in eight times, for some 8000 pauses: long enough for other threads to finish a job
 * and begin the next, and rare enough that they do. Keeps registers, not flags.
 */
function randomPauses(asm: Assembler): void {
  asm.push(rax);
  asm.push(rdx);
  asm.rdtsc();
  asm.imul(rax.d, rax.d, 0x2c1b3c6d);
  asm.shr(rax.d, 26);
  const end = asm.label("end");
  asm.cmp(rax.d, 56);
  asm.jb(end);
  asm.shl(rax.d, 7);
  const next = asm.here("next");
  asm.dec(rax.d);
  asm.js(end);
  asm.pause();
  asm.jmp(next);
  asm.bind(end);
  asm.pop(rdx);
  asm.pop(rax);
}

function dawdleIf(dawdling: boolean): Dawdle {
  return dawdling ? randomPauses : () => {};
}

/** Takes and runs tasks until there are none, counts them in `done` and reports them. */
function takePart(asm: Assembler, dawdle: Dawdle, afterwards: Label): void {
  const next = asm.label("next");
  const report = asm.label("report");
  asm.xor(done, done);
  asm.bind(next);
  // A plain look first: a decrement in vain would pull the line away from those who work.
  asm.cmp(field("unclaimed").d, 0);
  asm.jle(report);
  dawdle(asm);
  asm.mov(rax.d, -1);
  asm.lock().xadd(field("unclaimed"), rax.d);
  asm.test(rax.d, rax.d);
  asm.jle(report);
  dawdle(asm);
  asm.mov(rsi.d, field("tasks"));
  asm.sub(rsi.d, rax.d);
  asm.mov(rdi, field("arguments"));
  asm.mov(rdx, scratch);
  asm.call(field("kernel"));
  asm.inc(done);
  asm.jmp(next);
  asm.bind(report);
  asm.test(done, done);
  asm.je(afterwards);
  dawdle(asm);
  asm.mov(rax.d, done);
  asm.neg(rax.d);
  asm.lock().xadd(field("pending"), rax.d);
}

/**
 * A routine that keeps the calling helper off the launcher's processor: gives it the owner's
 * affinity mask less that processor, unless it has this already. Where the system refuses, or
 * nothing would be left, all stays as it was. Overwrites rbp.
 */
function bindMoveAway(asm: Assembler, routine: Label): void {
  const end = asm.label("end");
  const word = mem(rsp, { index: rbp, scale: 4 });
  asm.bind(routine);
  asm.sub(rsp, affinityBytes + 8);
  asm.mov(rbp.d, field("launcherProcessor"));
  asm.cmp(rbp.d, avoided);
  asm.je(end);
  asm.cmp(field("helpersMoveAway").d, 0);
  asm.je(end);
  asm.mov(avoided, rbp.d);
  asm.mov(rdi.d, field("ownerThread"));
  asm.mov(rsi.d, affinityBytes);
  asm.mov(rdx, rsp);
  asm.mov(rax.d, syscallGetAffinity);
  asm.syscall();
  asm.test(rax.d, rax.d); // the bytes that the mask has here, or an error
  asm.jle(end);
  asm.mov(rsi.d, rax.d);
  asm.mov(rcx.d, rbp.d);
  asm.shr(rbp.d, 5);
  asm.mov(rax.d, -2);
  asm.rol(rax.d, rcx.b); // all ones but the processor's bit
  asm.and(word.d, rax.d);
  asm.xor(rdi.d, rdi.d); // the calling thread
  asm.mov(rdx, rsp);
  asm.mov(rax.d, syscallSetAffinity);
  asm.syscall();
  asm.bind(end);
  asm.add(rsp, affinityBytes + 8);
  asm.ret();
}

/**
 * `helper(slot)`: waits for jobs and takes part in them until told to stop, or its owner is gone.
 */
export function emitHelper(dawdling: boolean): Uint8Array {
  const asm = new Assembler();
  const dawdle = dawdleIf(dawdling);
  enter(asm);
  asm.mov(block, mem(rdi));
  asm.mov(scratch, mem(rdi, { disp: 8 }));
  asm.mov(avoided, -1);
  const work = asm.label("work");
  const awake = asm.label("awake");
  const moveAway = asm.label("moveAway");
  const end = asm.label("end");

  const idle = asm.here("idle");
  setDeadline(asm, field("helperSpinTicks"));
  const spin = asm.here("spin");
  asm.cmp(field("unclaimed").d, 0);
  asm.jg(work);
  asm.cmp(field("stop").d, 0);
  asm.jne(end);
  spinTo(asm, spin);

  asm.call(moveAway);
  dawdle(asm);
  asm.lock().inc(field("sleepers").d);
  dawdle(asm);
  asm.mov(rdx.d, field("epoch"));
  dawdle(asm);
  asm.cmp(field("stop").d, 0);
  asm.jne(end);
  asm.cmp(field("unclaimed").d, 0);
  asm.jg(awake);
  dawdle(asm);
  asm.lea(rdi, field("epoch"));
  asm.mov(rsi.d, futexWaitPrivate);
  asm.lea(r10, field("checkInterval"));
  asm.mov(rax.d, syscallFutex);
  asm.syscall();
  asm.cmp(rax.d, errorTimedOut);
  asm.jne(awake);
  asm.mov(rdi.d, field("ownerProcess"));
  asm.mov(rsi.d, field("ownerThread"));
  asm.xor(rdx.d, rdx.d); // signal 0: sends nothing, tells whether the thread exists
  asm.mov(rax.d, syscallTgkill);
  asm.syscall();
  asm.cmp(rax.d, errorNoSuchThread);
  asm.je(end);
  asm.bind(awake);
  asm.lock().dec(field("sleepers").d);
  asm.call(moveAway);
  asm.jmp(idle);

  asm.bind(work);
  takePart(asm, dawdle, idle);
  asm.vzeroupper();
  asm.cmp(rax.d, done); // xadd gave the value before: equal means zero now
  asm.jne(idle);
  dawdle(asm);
  asm.cmp(field("sleeping").d, 0);
  asm.je(idle);
  asm.mov(rdx.d, 1);
  futexWake(asm, field("pending"));
  asm.jmp(idle);

  asm.bind(end);
  leave(asm);
  bindMoveAway(asm, moveAway);
  return asm.finish();
}

/** The machine code of the calling thread, and where its functions begin. */
export interface Launchers {
  readonly code: Uint8Array;
  /** `launch(block)`: runs the job in the block together with the helpers. */
  readonly launch: number;
  /** `launchAlone(block)`: runs it on the calling thread, without a look at helpers. */
  readonly launchAlone: number;
  /**
   * `launchList(block, jobs, count)`: puts one job after the other into the block and launches it,
   * together or, where it is one task, alone. At least one job, each of at least one task.
   */
  readonly launchList: number;
  /** The same, all of them alone. */
  readonly launchListAlone: number;
}

/** Bytes of a job in a list: kernel and arguments, 64 bits each, then tasks, 32 bits. */
export const jobBytes = 24;

/** Emits what the calling thread runs. */
export function emitLaunchers(dawdling: boolean): Launchers {
  const asm = new Assembler();
  const [launch, alone, list, listAlone] = ["launch", "alone", "list", "listAlone"].map((name) =>
    asm.label(name),
  );
  bindLaunch(asm, launch, dawdleIf(dawdling));
  bindLaunchAlone(asm, alone);
  bindLaunchList(asm, list, launch, alone);
  bindLaunchList(asm, listAlone, alone, alone);
  return {
    code: asm.finish(),
    launch: launch.offset!,
    launchAlone: alone.offset!,
    launchList: list.offset!,
    launchListAlone: listAlone.offset!,
  };
}

function bindLaunch(asm: Assembler, routine: Label, dawdle: Dawdle): void {
  asm.align(16);
  asm.bind(routine);
  enter(asm);
  asm.mov(block, rdi);
  asm.mov(scratch, field("launcherScratch"));
  const work = asm.label("work");
  const wait = asm.label("wait");
  const end = asm.label("end");

  asm.mov(rax.d, field("tasks"));
  asm.mov(field("pending"), rax.d);
  asm.mov(field("sleeping").d, 0);
  dawdle(asm);
  asm.xchg(field("unclaimed"), rax.d);
  dawdle(asm);
  asm.lock().inc(field("epoch").d); // after the job, and before the look at `sleepers`
  dawdle(asm);
  asm.cmp(field("sleepers").d, 0);
  asm.je(work);
  asm.lea(rdi, field("launcherProcessor"));
  asm.xor(rsi.d, rsi.d);
  asm.mov(rax.d, syscallGetProcessor);
  asm.syscall();
  asm.mov(rdx.d, field("tasks"));
  asm.dec(rdx.d); // helpers worth waking: this thread takes a task too
  futexWake(asm, field("epoch"));
  asm.bind(work);
  takePart(asm, dawdle, wait);
  asm.cmp(rax.d, done);
  asm.je(end);

  asm.bind(wait);
  setDeadline(asm, field("launcherSpinTicks"));
  const spin = asm.here("spin");
  asm.cmp(field("pending").d, 0);
  asm.je(end);
  spinTo(asm, spin);
  const sleep = asm.here("sleep");
  asm.mov(rax.d, 1);
  asm.xchg(field("sleeping"), rax.d);
  dawdle(asm);
  asm.mov(rdx.d, field("pending"));
  asm.test(rdx.d, rdx.d);
  asm.je(end);
  dawdle(asm);
  asm.lea(rdi, field("pending"));
  asm.mov(rsi.d, futexWaitPrivate);
  asm.xor(r10.d, r10.d); // no time limit
  asm.mov(rax.d, syscallFutex);
  asm.syscall();
  asm.jmp(sleep);

  asm.bind(end);
  leave(asm);
}

function bindLaunchAlone(asm: Assembler, routine: Label): void {
  asm.align(16);
  asm.bind(routine);
  enter(asm);
  asm.mov(block, rdi);
  asm.xor(r14.d, r14.d);
  const next = asm.here("next");
  asm.mov(rsi.d, r14.d);
  asm.mov(rdi, field("arguments"));
  asm.mov(rdx, field("launcherScratch"));
  asm.call(field("kernel"));
  asm.inc(r14.d);
  asm.cmp(r14.d, field("tasks"));
  asm.jb(next);
  leave(asm);
}

function bindLaunchList(asm: Assembler, routine: Label, together: Label, alone: Label): void {
  const [jobs, count] = [rbp, r12];
  asm.align(16);
  asm.bind(routine);
  enter(asm);
  asm.mov(block, rdi);
  asm.mov(jobs, rsi);
  asm.mov(count, rdx);
  const [next, single, done] = [asm.here("job"), asm.label("single"), asm.label("done")];
  asm.mov(rax, mem(jobs));
  asm.mov(field("kernel"), rax);
  asm.mov(rax, mem(jobs, { disp: 8 }));
  asm.mov(field("arguments"), rax);
  asm.mov(rax.d, mem(jobs, { disp: 16 }));
  asm.mov(field("tasks"), rax.d);
  asm.mov(rdi, block);
  asm.cmp(rax.d, 1);
  asm.je(single);
  asm.call(together);
  asm.jmp(done);
  asm.bind(single);
  asm.call(alone);
  asm.bind(done);
  asm.add(jobs, jobBytes);
  asm.dec(count);
  asm.jne(next);
  leave(asm);
}

/** `readTicks(out)`: stores the processor's time-stamp counter, 64 bits. */
export function emitReadTicks(): Uint8Array {
  const asm = new Assembler();
  asm.rdtsc();
  asm.mov(mem(rdi), rax.d);
  asm.mov(mem(rdi, { disp: 4 }), rdx.d);
  asm.ret();
  return asm.finish();
}
