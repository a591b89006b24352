/**
 * @file What a run looks like while it runs: a model kept from its events, and on it a bar in the
 * terminal and a trace for `profile-data` and Perfetto. The live page is in `watch-server.ts`.
 */
import { formatBytes, formatCount } from "../base/index.ts";
import { type TraceEvent, writeTrace } from "../trace/index.ts";
import type { Pond } from "./pond.ts";
import type { RunEvent, StageSummary } from "./scheduler.ts";

/** A stage of the latest run. */
export interface WatchedStage extends StageSummary {
  done: number;
  running: number;
  failed: number;
  rows: number;
  bytes: number;
  cpuMs: number;
  /** Bytes written by each finished partition. */
  readonly partitionBytes: Record<number, number>;
}

/** One attempt, running while `endMs` is undefined. */
export interface WatchedAttempt {
  readonly stage: string;
  readonly partition: number;
  readonly attempt: string;
  readonly tries: number;
  /** Which of the attempts that ran at once: a line of the picture. */
  readonly lane: number;
  readonly startMs: number;
  endMs: number | undefined;
  rows: number;
  bytes: number;
  cpuMs: number;
  failure: string | undefined;
  log: string;
}

const logBytesMax = 8192;
/** Attempts beyond this many are forgotten, the oldest first. */
const attemptsMax = 20_000;

/** The latest run of a session, kept up to date from its events. */
export class Watch {
  readonly stages: Map<string, WatchedStage> = new Map();
  readonly attempts: Map<string, WatchedAttempt> = new Map();
  /** When the latest plan began and ended, milliseconds since the epoch. */
  startMs = 0;
  endMs: number | undefined;
  failure: string | undefined;
  private readonly lanes: boolean[] = [];
  private readonly listeners = new Set<(event: RunEvent) => void>();
  private readonly pond: Pond;

  /** Follows `pond` until `stop`. */
  constructor(pond: Pond) {
    this.pond = pond;
    pond.events.on("event", this.take);
  }

  /** Calls `listener` after each event; the function returned ends that. */
  onChange(listener: (event: RunEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Follows no longer. */
  stop(): void {
    this.pond.events.off("event", this.take);
  }

  private readonly take = (event: RunEvent): void => {
    this.apply(event);
    for (const listener of this.listeners) listener(event);
  };

  private apply(event: RunEvent): void {
    switch (event.kind) {
      case "plan":
        this.stages.clear();
        this.attempts.clear();
        this.lanes.length = 0;
        this.startMs = Date.now();
        this.endMs = undefined;
        this.failure = undefined;
        for (const stage of event.stages) {
          const counts = { running: 0, failed: 0, rows: 0, bytes: 0, cpuMs: 0, partitionBytes: {} };
          this.stages.set(stage.key, { ...stage, ...counts, done: stage.reused });
        }
        break;
      case "start":
        this.started(event);
        break;
      case "end":
        this.ended(event);
        break;
      case "log": {
        const attempt = this.attempts.get(event.attempt);
        if (attempt) attempt.log = (attempt.log + event.text).slice(-logBytesMax);
        break;
      }
      case "done":
        this.endMs = event.atMs;
        this.failure = event.failure;
    }
  }

  private started(event: Extract<RunEvent, { kind: "start" }>): void {
    const free = this.lanes.indexOf(false);
    const lane = free < 0 ? this.lanes.length : free;
    this.lanes[lane] = true;
    const { stage, partition, attempt, tries, atMs: startMs } = event;
    const nothing = { endMs: undefined, rows: 0, bytes: 0, cpuMs: 0, failure: undefined, log: "" };
    this.attempts.set(attempt, { stage, partition, attempt, tries, lane, startMs, ...nothing });
    const of = this.stages.get(stage);
    if (of) of.running++;
    if (this.attempts.size > attemptsMax) {
      const [oldest] = this.attempts.keys();
      this.attempts.delete(oldest);
    }
  }

  private ended(event: Extract<RunEvent, { kind: "end" }>): void {
    const stage = this.stages.get(event.stage);
    const attempt = this.attempts.get(event.attempt);
    if (attempt) {
      this.lanes[attempt.lane] = false;
      attempt.endMs = event.atMs;
      attempt.failure = event.failure?.message;
      Object.assign(attempt, { rows: event.rows, bytes: event.bytes, cpuMs: event.cpuMs });
    }
    if (!stage) return;
    stage.running--;
    if (event.failure) {
      if (event.failure.code !== "aborted") stage.failed++;
      return;
    }
    // A second copy of a task may end as well; it counts once.
    if (event.partition in stage.partitionBytes) return;
    stage.partitionBytes[event.partition] = event.bytes;
    stage.done++;
    stage.rows += event.rows;
    stage.bytes += event.bytes;
    stage.cpuMs += event.cpuMs;
  }

  /** The trace of the latest run in Chrome's format, in pieces; a lane a line, a span an attempt. */
  trace(): Generator<string, void, undefined> {
    return writeTrace(this.traceEvents(), { displayTimeUnit: "ms" });
  }

  private *traceEvents(): Generator<TraceEvent> {
    const pid = 1;
    yield { ph: "M", name: "process_name", pid, tid: 0, args: { name: "smallpond" } };
    for (const lane of this.lanes.keys()) {
      yield { ph: "M", name: "thread_name", pid, tid: lane, args: { name: `slot ${lane}` } };
    }
    for (const attempt of this.attempts.values()) {
      const { stage, partition, startMs, endMs = Date.now(), lane, ...args } = attempt;
      const name = this.stages.get(stage)?.label ?? stage;
      const times = { ts: (startMs - this.startMs) * 1e3, dur: (endMs - startMs) * 1e3 };
      yield {
        ph: "X",
        name,
        cat: "kernel",
        pid,
        tid: lane,
        ...times,
        args: { ...args, partition, stream: lane, device: 0 },
      };
    }
  }
}

/** The largest partition over the mean: 1 where all are alike. */
export function skewOf(stage: WatchedStage): number {
  const sizes = Object.values(stage.partitionBytes);
  const mean = sizes.reduce((sum, bytes) => sum + bytes, 0) / sizes.length;
  return mean > 0 ? Math.max(...sizes) / mean : 1;
}

/** Draws the runs of `pond` as a bar on a terminal (lines, where it is none) until the function returned is called. */
export function showProgress(pond: Pond, stream: NodeJS.WriteStream = process.stderr): () => void {
  const watch = new Watch(pond);
  let drawnMs = 0;
  const draw = (event: RunEvent): void => {
    const isLast = event.kind === "done";
    const everyMs = stream.isTTY ? 100 : 10_000;
    if (!isLast && performance.now() - drawnMs < everyMs) return;
    drawnMs = performance.now();
    const line = progressLine(watch, stream.columns ?? 100);
    stream.write(stream.isTTY ? `\r\x1b[2K${line}${isLast ? "\n" : ""}` : `${line}\n`);
  };
  watch.onChange(draw);
  return () => watch.stop();
}

/** One line about a run: bar, tasks, what runs, rows and bytes. At most `columns` wide. */
export function progressLine(watch: Watch, columns: number): string {
  const stages = [...watch.stages.values()];
  const sum = (of: (stage: WatchedStage) => number) =>
    stages.reduce((total, stage) => total + of(stage), 0);
  const tasks = sum(({ partitions }) => partitions);
  const done = sum((stage) => stage.done);
  const filled = tasks === 0 ? 20 : Math.round((done / tasks) * 20);
  const bar = "█".repeat(filled).padEnd(20, "░");
  const running = stages.find((stage) => stage.running > 0);
  const failed = sum((stage) => stage.failed);
  const seconds = (((watch.endMs ?? Date.now()) - watch.startMs) / 1e3).toFixed(1);
  const parts = [
    `${bar} ${done}/${tasks} tasks`,
    `${seconds} s`,
    `${formatCount(sum(({ rows }) => rows))} rows`,
    formatBytes(sum(({ bytes }) => bytes)),
    ...(failed > 0 ? [`${failed} failed`] : []),
    ...(watch.failure ? [watch.failure] : running ? [running.label] : []),
  ];
  return parts.join("  ").slice(0, columns - 1);
}
