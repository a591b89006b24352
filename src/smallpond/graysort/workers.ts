/**
 * @file Who runs the tasks: this process where one worker is asked for, else child processes, one
 * task each at a time. A child that dies costs its task an attempt; another child takes its place.
 */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { BaleenError, workerUrl } from "../../base/index.ts";
import { openDevice } from "../../device/index.ts";
import { openKernels } from "./kernels.ts";
import { runTask, type Task, type TaskResult } from "./tasks.ts";
import type { Reply } from "./worker.ts";

/** A task's attempts before the sort gives up. */
const attemptsMax = 4;

/** Runs tasks, as many at a time as there are workers. */
export interface Workers {
  /** Runs the task that `attempt` makes; a lost worker has it make another. */
  run(attempt: () => Task): Promise<TaskResult>;
  /** Ends the workers. */
  close(): Promise<void>;
}

/** `count` workers. */
export async function openWorkers(count: number, signal?: AbortSignal): Promise<Workers> {
  return count === 1 ? new ThisProcess(signal) : new Children(count, signal);
}

/** Lets callers in one after another, `count` at a time. */
class Gate {
  private free: number;
  private readonly waiting: (() => void)[] = [];

  constructor(count: number) {
    this.free = count;
  }

  async through<T>(body: () => Promise<T>): Promise<T> {
    if (this.free > 0) this.free--;
    else await new Promise<void>((resolve) => this.waiting.push(resolve));
    try {
      return await body();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.free++;
    }
  }
}

class ThisProcess implements Workers {
  private readonly device = openDevice({ threads: 1 });
  private readonly kernels = openKernels(this.device);
  private readonly gate = new Gate(1);
  private readonly signal: AbortSignal | undefined;

  constructor(signal: AbortSignal | undefined) {
    this.signal = signal;
  }

  run(attempt: () => Task): Promise<TaskResult> {
    return this.gate.through(async () => {
      this.signal?.throwIfAborted();
      return runTask(this.kernels, attempt(), this.signal);
    });
  }

  async close(): Promise<void> {
    this.kernels.close();
    this.device.close();
  }
}

class Children implements Workers {
  private readonly gate: Gate;
  private readonly idle: ChildProcess[] = [];
  private readonly all = new Set<ChildProcess>();
  private readonly signal: AbortSignal | undefined;
  private readonly killAll = (): void => {
    for (const child of this.all) child.kill("SIGKILL");
  };

  constructor(count: number, signal: AbortSignal | undefined) {
    this.gate = new Gate(count);
    this.signal = signal;
    signal?.addEventListener("abort", this.killAll);
  }

  run(attempt: () => Task): Promise<TaskResult> {
    return this.gate.through(async () => {
      for (let attempts = 1; ; attempts++) {
        this.signal?.throwIfAborted();
        const task = attempt();
        const child = this.idle.pop() ?? this.start();
        const outcome = await ask(child, task);
        if ("reply" in outcome) {
          this.idle.push(child);
          const { reply } = outcome;
          if ("result" in reply) return reply.result;
          throw new BaleenError(reply.error.code, reply.error.message, { retry: "same" });
        }
        this.signal?.throwIfAborted();
        if (attempts === attemptsMax) {
          throw new BaleenError(
            "worker-lost",
            `a ${task.kind} task lost its worker ${attemptsMax} times (${outcome.lost}): ` +
              "give it more memory (--memory), or look for what kills it.",
            { retry: "same" },
          );
        }
      }
    });
  }

  private start(): ChildProcess {
    const child = fork(fileURLToPath(workerUrl(import.meta.url, "./worker")), {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    this.all.add(child);
    child.once("exit", () => this.all.delete(child));
    return child;
  }

  async close(): Promise<void> {
    this.signal?.removeEventListener("abort", this.killAll);
    const exits = [...this.all].map((child) => new Promise((done) => child.once("exit", done)));
    this.killAll();
    await Promise.all(exits);
  }
}

/** The child's reply, or how it ended instead. */
function ask(child: ChildProcess, task: Task): Promise<{ reply: Reply } | { lost: string }> {
  return new Promise((resolve) => {
    const settle = (outcome: { reply: Reply } | { lost: string }): void => {
      child.off("message", onMessage);
      child.off("exit", onExit);
      child.off("error", onError);
      resolve(outcome);
    };
    const onMessage = (reply: unknown): void => settle({ reply: reply as Reply });
    const onExit = (code: number | null, signal: string | null): void =>
      settle({ lost: signal ?? `exit status ${code}` });
    const onError = (error: Error): void => settle({ lost: error.message });
    child.once("message", onMessage);
    child.once("exit", onExit);
    child.once("error", onError);
    child.send(task, (error) => {
      if (error) settle({ lost: error.message });
    });
  });
}
