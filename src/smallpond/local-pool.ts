/**
 * @file Worker processes on this machine. Each runs one attempt at a time; a crash or a kill costs
 * that attempt only. Memory is enforced twice: DuckDB spills at its limit, and a process whose
 * resident memory grows well beyond it is killed and reported as out of memory.
 */
import { type ChildProcess, fork } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { workerUrl } from "../base/index.ts";
import type { Outcome } from "./attempt.ts";
import type { Attempt } from "./task.ts";

/** Something that runs attempts: this pool, or a queue with workers elsewhere. */
export interface Executor {
  /** Attempts that may run at once. */
  readonly slots: number;
  /** Threads that one attempt may use when it runs alone. */
  readonly threads: number;
  /** Runs an attempt to its end; never rejects, a failure is an outcome. */
  run(attempt: Attempt): Promise<Outcome>;
  /** Stops an attempt; its outcome is then a failure, at once. */
  cancel(attempt: string): void;
  /** Ends all workers. */
  close(): Promise<void>;
}

interface Worker {
  readonly child: ChildProcess;
  attempt: Attempt | undefined;
  settle: ((outcome: Outcome) => void) | undefined;
  /** Why we killed it, if we did. */
  killedFor: "out-of-memory" | "aborted" | undefined;
  log: string;
}

/** Options of a pool. */
export interface PoolOptions {
  readonly slots: number;
  readonly threads: number;
  /** Called with what a worker prints while it runs an attempt. */
  readonly onLog?: (attempt: Attempt, text: string) => void;
}

/** Memory beside DuckDB's own: the runtime, the library, typed columns. */
const overheadBytes = 384 * 2 ** 20;
const watchEveryMs = 100;

/** A pool of child processes, started when first needed. */
export class LocalPool implements Executor {
  readonly slots: number;
  readonly threads: number;
  private readonly workers = new Set<Worker>();
  private readonly onLog: PoolOptions["onLog"];
  private watch: NodeJS.Timeout | undefined;
  private closed = false;

  constructor(options: PoolOptions) {
    this.slots = options.slots;
    this.threads = options.threads;
    this.onLog = options.onLog;
  }

  run(attempt: Attempt): Promise<Outcome> {
    const idle = [...this.workers].find((one) => one.attempt === undefined && !one.killedFor);
    const worker = idle ?? this.start();
    worker.attempt = attempt;
    worker.log = "";
    hold(worker.child, true);
    this.watch ??= setInterval(() => this.checkMemory(), watchEveryMs).unref();
    return new Promise((resolve) => {
      worker.settle = resolve;
      worker.child.send({ kind: "run", attempt }, (error) => {
        if (error) worker.child.kill("SIGKILL");
      });
    });
  }

  cancel(attempt: string): void {
    const worker = [...this.workers].find((one) => one.attempt?.attempt === attempt);
    if (worker) this.kill(worker, "aborted");
  }

  async close(): Promise<void> {
    this.closed = true;
    clearInterval(this.watch);
    const ended = [...this.workers].map(
      ({ child }) =>
        new Promise<void>((done) => {
          hold(child, true);
          child.once("exit", () => done());
          child.kill("SIGKILL");
        }),
    );
    await Promise.all(ended);
  }

  private start(): Worker {
    const path = fileURLToPath(workerUrl(import.meta.url, "./worker"));
    const child = fork(path, [], { stdio: ["ignore", "pipe", "pipe", "ipc"], execArgv: [] });
    const worker: Worker = {
      child,
      attempt: undefined,
      settle: undefined,
      killedFor: undefined,
      log: "",
    };
    this.workers.add(worker);
    child.on("message", (outcome: Outcome) => {
      if (outcome.attempt === worker.attempt?.attempt) this.settle(worker, outcome);
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (bytes: Buffer) => this.note(worker, String(bytes)));
    }
    child.on("error", () => this.ended(worker, "it could not be started"));
    child.on("exit", (code, signal) =>
      this.ended(worker, signal ? `signal ${signal}` : `status ${code}`),
    );
    return worker;
  }

  private note(worker: Worker, text: string): void {
    worker.log = (worker.log + text).slice(-4096);
    if (worker.attempt) this.onLog?.(worker.attempt, text);
  }

  private settle(worker: Worker, outcome: Outcome): void {
    const { settle } = worker;
    worker.attempt = undefined;
    worker.settle = undefined;
    hold(worker.child, false);
    settle?.(outcome);
  }

  private ended(worker: Worker, how: string): void {
    if (!this.workers.delete(worker) || !worker.attempt) return;
    const { attempt } = worker.attempt;
    const memory = worker.attempt.memoryBytes;
    const failures = {
      "out-of-memory": `The task took more than its ${Math.round(memory / 2 ** 20)} MiB; give it more memory or more partitions.`,
      aborted: "The attempt was stopped.",
    };
    const said = worker.log.trim().split("\n").at(-1);
    const died = `The worker died (${how})${said ? `, saying: ${said}` : ""}; the task is tried again.`;
    const code = worker.killedFor ?? "worker-died";
    const message = worker.killedFor ? failures[worker.killedFor] : died;
    this.settle(worker, { attempt, failure: { code: this.closed ? "aborted" : code, message } });
  }

  private kill(worker: Worker, reason: "out-of-memory" | "aborted"): void {
    worker.killedFor = reason;
    worker.child.kill("SIGKILL");
  }

  private checkMemory(): void {
    for (const worker of this.workers) {
      if (!worker.attempt || worker.killedFor) continue;
      const resident = residentBytes(worker.child.pid);
      if (resident > worker.attempt.memoryBytes * 1.25 + overheadBytes) {
        this.kill(worker, "out-of-memory");
      }
    }
  }
}

/** Whether the child keeps this process alive. */
function hold(child: ChildProcess, busy: boolean): void {
  for (const handle of [child, child.channel, child.stdout, child.stderr]) {
    const one = handle as { ref?: () => void; unref?: () => void } | null | undefined;
    if (busy) one?.ref?.();
    else one?.unref?.();
  }
}

/** The resident memory of a process, or 0 where the system does not tell. */
function residentBytes(pid: number | undefined): number {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]) * 4096;
  } catch {
    return 0;
  }
}
