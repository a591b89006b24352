/**
 * @file Runs a physical plan: keeps the graph, hands ready tasks to an executor, and believes only
 * commits. A task whose commit exists is never run; what stands before a finished stage is not even
 * looked at. Failures that may pass are tried again (out of memory with twice the memory); a task
 * that takes much longer than its fellows gets a second copy, and the first commit wins.
 */
import { randomBytes } from "node:crypto";
import type { EventEmitter } from "node:events";
import { medianOf } from "../base/index.ts";
import type { Outcome, WireFailure } from "./attempt.ts";
import { committedKeys, readCommit } from "./commits.ts";
import { type PondErrorCode, pondError, pondErrors, throwIfAborted } from "./errors.ts";
import type { Executor } from "./local-pool.ts";
import { type Stage, taskKey, taskOf, upstreamOf, waitsFor } from "./stage.ts";
import type { Attempt, Commit, Faults } from "./task.ts";

/** How a run behaves. */
export interface RunOptions {
  readonly root: string;
  readonly executor: Executor;
  /** Memory of one task at its first attempt. */
  readonly taskMemoryBytes: number;
  /** Memory of one task at most. */
  readonly taskMemoryBytesMax: number;
  /** Attempts of one task at most. */
  readonly attemptsMax: number;
  /** A task is copied when it has run for this long and three times the median of its stage. */
  readonly stragglerMs: number;
  readonly faults?: Faults;
  readonly signal?: AbortSignal;
}

/** What happens in a run, for whoever watches. Times are milliseconds since the epoch. */
export type RunEvent =
  | { readonly kind: "plan"; readonly stages: readonly StageSummary[] }
  | {
      readonly kind: "start";
      readonly stage: string;
      readonly partition: number;
      readonly attempt: string;
      readonly tries: number;
      readonly atMs: number;
    }
  | {
      readonly kind: "end";
      readonly stage: string;
      readonly partition: number;
      readonly attempt: string;
      readonly atMs: number;
      readonly bytes: number;
      readonly rows: number;
      readonly cpuMs: number;
      readonly failure: WireFailure | undefined;
    }
  | { readonly kind: "log"; readonly key: string; readonly attempt: string; readonly text: string }
  | { readonly kind: "done"; readonly atMs: number; readonly failure: string | undefined };

/** A stage as watchers see it. */
export interface StageSummary {
  readonly key: string;
  readonly label: string;
  readonly partitions: number;
  /** Partitions that earlier runs had done. */
  readonly reused: number;
  readonly inputs: readonly string[];
}

/** Counts of one run. */
export interface RunStats {
  /** Tasks that ran to a commit in this run. */
  readonly executed: number;
  /** Tasks that were found done. */
  readonly reused: number;
  /** Attempts that were started. */
  readonly attempts: number;
  /** Second copies that were started. */
  readonly copies: number;
}

/** The commits of the last stage, by partition, and counts. */
export interface RunResult {
  readonly commits: readonly Commit[];
  readonly stats: RunStats;
}

interface StageState {
  readonly stage: Stage;
  readonly commits: (Commit | undefined)[];
  readonly consumers: StageState[];
  /** Partitions that are neither done nor handed out. */
  readonly waiting: Set<number>;
  remaining: number;
  readonly wallMs: number[];
}

interface TaskState {
  readonly of: StageState;
  readonly partition: number;
  tries: number;
  memoryBytes: number;
  readonly live: Map<string, number>;
  done: boolean;
}

/** Runs `last` and what it needs; rejects with the first failure that trying again can't mend. */
export function runPlan(
  last: Stage,
  options: RunOptions,
  events: EventEmitter<{ event: [RunEvent] }>,
): Promise<RunResult> {
  return new Run(last, options, events).result();
}

class Run {
  private readonly options: RunOptions;
  private readonly events: EventEmitter<{ event: [RunEvent] }>;
  private readonly last: StageState;
  private readonly states = new Map<Stage, StageState>();
  private readonly committed: Set<string>;
  private readonly ready: TaskState[] = [];
  private readonly live = new Set<TaskState>();
  private readonly counts = { executed: 0, reused: 0, attempts: 0, copies: 0 };
  private readonly runId = randomBytes(4).toString("hex");
  private liveAttempts = 0;
  private finish: { resolve: () => void; reject: (error: Error) => void } | undefined;
  private over = false;

  constructor(last: Stage, options: RunOptions, events: EventEmitter<{ event: [RunEvent] }>) {
    this.options = options;
    this.events = events;
    this.committed = committedKeys(options.root);
    this.last = this.need(last);
  }

  async result(): Promise<RunResult> {
    const { signal } = this.options;
    throwIfAborted(signal);
    this.emit({
      kind: "plan",
      stages: [...this.states.values()].map(summary),
    });
    const stop = () =>
      this.fail(
        pondError("aborted", "The run was cancelled; run it again to go on.", signal?.reason),
      );
    const ticking = setInterval(() => this.copyStragglers(), 50);
    try {
      await new Promise<void>((resolve, reject) => {
        this.finish = { resolve, reject };
        signal?.addEventListener("abort", stop, { once: true });
        for (const state of this.states.values()) this.release(state);
        this.dispatch();
      });
      this.emit({ kind: "done", atMs: Date.now(), failure: undefined });
    } catch (error) {
      this.emit({ kind: "done", atMs: Date.now(), failure: (error as Error).message });
      throw error;
    } finally {
      clearInterval(ticking);
      signal?.removeEventListener("abort", stop);
    }
    return { commits: this.commitsOf(this.last.stage), stats: this.counts };
  }

  /** The state of a stage; what it reads is needed too unless all of it is done already. */
  private need(stage: Stage): StageState {
    const known = this.states.get(stage);
    if (known) return known;
    const commits = Array.from({ length: stage.partitions }, (_, p) => this.found(stage, p));
    const waiting = new Set<number>();
    commits.forEach((commit, p) => {
      if (!commit) waiting.add(p);
    });
    const state = { stage, commits, consumers: [], waiting, remaining: waiting.size, wallMs: [] };
    this.counts.reused += commits.length - waiting.size;
    this.states.set(stage, state);
    if (state.remaining > 0) {
      for (const other of upstreamOf(stage)) this.need(other).consumers.push(state);
    }
    return state;
  }

  private found(stage: Stage, partition: number): Commit | undefined {
    const key = taskKey(stage, partition);
    return this.committed.has(key) ? readCommit(this.options.root, key) : undefined;
  }

  private commitsOf(stage: Stage): readonly Commit[] {
    return this.states.get(stage)?.commits as Commit[];
  }

  /** Moves the tasks of a stage whose inputs are there to the ready queue. */
  private release(state: StageState): void {
    const { stage, waiting } = state;
    const blocked = upstreamOf(stage).filter((other) => this.need(other).remaining > 0);
    for (const p of waiting) {
      const isReady = blocked.every((other) => {
        const only = waitsFor(stage, p, other);
        return only !== undefined && (only < 0 || this.need(other).commits[only] !== undefined);
      });
      if (!isReady) continue;
      waiting.delete(p);
      const memoryBytes = this.options.taskMemoryBytes;
      this.ready.push({
        of: state,
        partition: p,
        tries: 0,
        memoryBytes,
        live: new Map(),
        done: false,
      });
    }
    if (this.last.remaining === 0) this.succeed();
  }

  private dispatch(): void {
    if (this.over) return;
    while (this.liveAttempts < this.options.executor.slots) {
      const task = this.ready.shift();
      if (!task) return;
      this.start(task);
    }
  }

  private start(task: TaskState): void {
    const { of, partition } = task;
    const { executor, root, faults } = this.options;
    const attempt = `${this.runId}${(this.counts.attempts++).toString(36)}`;
    const alone = this.liveAttempts === 0 && this.ready.length === 0;
    const threads = alone
      ? executor.threads
      : Math.max(1, Math.floor(executor.threads / executor.slots));
    const plain = taskOf(of.stage, partition, (stage) => this.commitsOf(stage));
    const { tries, memoryBytes } = task;
    task.tries++;
    task.live.set(attempt, performance.now());
    this.live.add(task);
    this.liveAttempts++;
    this.emit({ kind: "start", stage: of.stage.key, partition, attempt, tries, atMs: Date.now() });
    const given: Attempt = {
      task: plain,
      attempt,
      tries,
      root,
      memoryBytes,
      threads,
      ...(faults && { faults }),
    };
    executor
      .run(given)
      .then((outcome) => this.ended(task, outcome))
      .catch((error: Error) => this.fail(error));
  }

  private ended(task: TaskState, outcome: Outcome): void {
    const startedMs = task.live.get(outcome.attempt) ?? 0;
    task.live.delete(outcome.attempt);
    this.liveAttempts--;
    if (task.live.size === 0) this.live.delete(task);
    if (this.over) return;
    const failure = "failure" in outcome ? outcome.failure : undefined;
    const commit = "commit" in outcome ? outcome.commit : undefined;
    const { stage } = task.of;
    this.emit({
      kind: "end",
      stage: stage.key,
      partition: task.partition,
      attempt: outcome.attempt,
      atMs: Date.now(),
      bytes: commit?.bytes ?? 0,
      rows: commit?.rows ?? 0,
      cpuMs: commit?.cpuMs ?? 0,
      failure,
    });
    if (commit && !task.done) {
      task.of.wallMs.push(performance.now() - startedMs);
      this.completed(task, commit);
    } else if (failure && !task.done && task.live.size === 0) this.retry(task, failure);
    this.dispatch();
  }

  private completed(task: TaskState, commit: Commit): void {
    task.done = true;
    this.counts.executed++;
    for (const attempt of task.live.keys()) this.options.executor.cancel(attempt);
    task.of.commits[task.partition] = commit;
    task.of.remaining--;
    if (this.last.remaining === 0) this.succeed();
    if (this.over) return;
    for (const consumer of task.of.consumers) {
      if (consumer.waiting.size > 0) this.release(consumer);
    }
  }

  private retry(task: TaskState, failure: WireFailure): void {
    const { attemptsMax, taskMemoryBytesMax } = this.options;
    const advice = pondErrors[failure.code as PondErrorCode] ?? "never";
    const isMemory = failure.code === "out-of-memory";
    const grown = Math.min(task.memoryBytes * 2, taskMemoryBytesMax);
    const hopeless = failure.code === "disk-full" || (isMemory && grown === task.memoryBytes);
    if (advice !== "same" || hopeless || task.tries >= attemptsMax) {
      const after = task.tries > 1 ? ` (after ${task.tries} attempts)` : "";
      const code = (failure.code in pondErrors ? failure.code : "task-failed") as PondErrorCode;
      this.fail(
        pondError(
          code,
          `${task.of.stage.label}, partition ${task.partition}${after}: ${failure.message}`,
        ),
      );
      return;
    }
    if (isMemory) task.memoryBytes = grown;
    this.ready.unshift(task);
  }

  /** With slots to spare, starts a second copy of tasks that take much longer than their fellows. */
  private copyStragglers(): void {
    if (this.over || this.ready.length > 0) return;
    for (const task of this.live) {
      if (this.liveAttempts >= this.options.executor.slots) return;
      const { wallMs } = task.of;
      if (task.done || task.live.size !== 1 || wallMs.length < 3) continue;
      const [startedMs] = task.live.values();
      const limitMs = Math.max(this.options.stragglerMs, 3 * medianOf(wallMs));
      if (performance.now() - startedMs < limitMs) continue;
      this.counts.copies++;
      this.start(task);
    }
  }

  private succeed(): void {
    if (this.over) return;
    this.over = true;
    this.cancelAll();
    this.finish?.resolve();
  }

  private fail(error: Error): void {
    if (this.over) return;
    this.over = true;
    this.cancelAll();
    this.finish?.reject(error);
  }

  private cancelAll(): void {
    for (const task of this.live) {
      for (const attempt of task.live.keys()) this.options.executor.cancel(attempt);
    }
  }

  private emit(event: RunEvent): void {
    this.events.emit("event", event);
  }
}

function summary({ stage, remaining }: StageState): StageSummary {
  const { key, label, partitions } = stage;
  const inputs = upstreamOf(stage).map((other) => other.key);
  return { key, label, partitions, reused: partitions - remaining, inputs };
}
