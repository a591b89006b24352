/**
 * @file Scale-out over BullMQ on Redis: `queueExecutor` hands attempts to a queue, `runQueueWorker`
 * takes them on any host that shares the root folder. The scheduler keeps the graph and submits only
 * what is ready. The queue is never the truth: a commit is, and what Redis forgets is submitted again,
 * so a lost or doubled message costs time and nothing else.
 */
import { randomBytes } from "node:crypto";
import { availableParallelism } from "node:os";
import { type Job, Queue, QueueEvents, Worker } from "bullmq";
import { Redis } from "ioredis";
import type { Outcome } from "./attempt.ts";
import { readCommit } from "./commits.ts";
import { pondError } from "./errors.ts";
import { type Executor, LocalPool } from "./local-pool.ts";
import type { Attempt } from "./task.ts";

/** Where a queue is. */
export interface QueueAddress {
  /** Such as `redis://127.0.0.1:6379`. */
  readonly redis: string;
  /** Default: `baleen-pond`. */
  readonly queue?: string;
}

const defaultQueue = "baleen-pond";
/** A worker that does not renew its lock for so long is taken for dead, and its attempt given away. */
const lockMs = 5000;
/** How often pending attempts are looked up, for those whose events or jobs were lost. */
const lookMs = 500;

const cancelChannel = (queue: string) => `${queue}:cancel`;

/** A connection that waits for a server that is away. */
function connect(redis: string): Redis {
  const connection = new Redis(redis, {
    maxRetriesPerRequest: null,
    retryStrategy: (tries) => Math.min(50 * tries, 1000),
  });
  // Each lost connection is reported once more as an event; waiting is all there is to do.
  connection.on("error", () => {});
  return connection;
}

/** Throws unless a Redis answers at this address. */
async function checkRedis(redis: string): Promise<void> {
  let probe: Redis | undefined;
  try {
    const url = new URL(redis);
    if (!/^rediss?:$/.test(url.protocol)) throw new Error(`${url.protocol} is not redis:`);
    probe = new Redis(redis, {
      lazyConnect: true,
      retryStrategy: () => null,
      connectTimeout: 3000,
    });
    probe.on("error", () => {});
    await probe.connect();
    await probe.ping();
  } catch (error) {
    const why = (error as Error).message;
    throw pondError(
      "queue-lost",
      `No Redis answers at ${redis} (${why}); start one or correct the URL.`,
      error,
    );
  } finally {
    probe?.disconnect();
  }
}

interface Pending {
  readonly attempt: Attempt;
  readonly sinceMs: number;
  readonly settle: (outcome: Outcome) => void;
}

/** Options of `queueExecutor`. */
export interface QueueExecutorOptions extends QueueAddress {
  /** Attempts in the queue at once. Default: 64. */
  readonly slots?: number;
}

/** An executor whose workers take attempts from a queue; throws `queue-lost` where no Redis answers. */
export async function queueExecutor(options: QueueExecutorOptions): Promise<Executor> {
  await checkRedis(options.redis);
  const executor = new QueueExecutor(options);
  await executor.open();
  return executor;
}

class QueueExecutor implements Executor {
  readonly slots: number;
  readonly threads: number = availableParallelism();
  private readonly name: string;
  private readonly connections: Redis[];
  private readonly queue: Queue;
  private readonly events: QueueEvents;
  private readonly pending = new Map<string, Pending>();
  private readonly looking: NodeJS.Timeout;
  private readonly submitted: Attempt[] = [];
  private isLooking = false;

  constructor({ redis, queue = defaultQueue, slots = 64 }: QueueExecutorOptions) {
    this.slots = slots;
    this.name = queue;
    this.connections = [connect(redis), connect(redis), connect(redis)];
    const kept = { age: 600, count: 2000 };
    const defaultJobOptions = { removeOnComplete: kept, removeOnFail: kept };
    const connection = this.connections[0] as never;
    this.queue = new Queue(queue, { connection, defaultJobOptions });
    this.events = new QueueEvents(queue, { connection: this.connections[1] as never });
    this.queue.on("error", () => {});
    this.events.on("error", () => {});
    this.events.on("completed", ({ jobId, returnvalue }) => {
      this.settle(jobId, returnvalue as unknown as Outcome);
    });
    this.events.on("failed", ({ jobId, failedReason }) => this.failed(jobId, failedReason));
    this.looking = setInterval(() => void this.look(), lookMs);
  }

  async open(): Promise<void> {
    await this.events.waitUntilReady();
  }

  run(attempt: Attempt): Promise<Outcome> {
    return new Promise((settle) => {
      this.pending.set(attempt.attempt, { attempt, sinceMs: performance.now(), settle });
      this.submit(attempt);
    });
  }

  /** Attempts of one turn of the event loop are added in one round trip. */
  private submit(attempt: Attempt): void {
    if (this.submitted.push(attempt) > 1) return;
    setImmediate(() => {
      const attempts = this.submitted.splice(0);
      const jobs = attempts.map((data) => ({ name: "task", data, opts: { jobId: data.attempt } }));
      this.queue.addBulk(jobs).catch((error: Error) => {
        for (const { attempt: id } of attempts) this.failed(id, error.message);
      });
    });
  }

  cancel(attempt: string): void {
    if (!this.pending.has(attempt)) return;
    this.settle(attempt, {
      attempt,
      failure: { code: "aborted", message: "The attempt was stopped." },
    });
    // A worker that never hears it finds the task committed, or is stopped by nobody: it harms nothing.
    this.queue.remove(attempt).catch(() => {});
    this.connections[2].publish(cancelChannel(this.name), attempt).catch(() => {});
  }

  private settle(attempt: string, outcome: Outcome): void {
    const pending = this.pending.get(attempt);
    this.pending.delete(attempt);
    pending?.settle(outcome);
  }

  private failed(attempt: string, reason: string): void {
    const message = `The queue gave the attempt up (${reason}); it is submitted again.`;
    this.settle(attempt, { attempt, failure: { code: "worker-died", message } });
  }

  /** Settles attempts that are committed or ended unheard; submits those that Redis has forgotten. */
  private async look(): Promise<void> {
    if (this.isLooking) return;
    this.isLooking = true;
    try {
      for (const [id, { attempt, sinceMs }] of [...this.pending]) {
        const commit = readCommit(attempt.root, attempt.task.key);
        if (commit) this.settle(id, { attempt: id, commit });
        else if (performance.now() - sinceMs > 2 * lookMs) await this.lookUp(id, attempt);
      }
    } catch {
      // Redis is away; the next look will tell.
    } finally {
      this.isLooking = false;
    }
  }

  private async lookUp(id: string, attempt: Attempt): Promise<void> {
    const job = (await this.queue.getJob(id)) as Job<Attempt, Outcome> | undefined;
    if (!this.pending.has(id)) return;
    if (!job) this.submit(attempt);
    else if (job.returnvalue) this.settle(id, job.returnvalue);
    else if (job.failedReason) this.failed(id, job.failedReason);
  }

  async close(): Promise<void> {
    clearInterval(this.looking);
    for (const id of [...this.pending.keys()]) this.cancel(id);
    const closing = Promise.allSettled([this.events.close(), this.queue.close()]);
    await Promise.race([closing, new Promise((done) => setTimeout(done, 1000))]);
    for (const connection of this.connections) connection.disconnect();
  }
}

/** Options of `runQueueWorker`. */
export interface QueueWorkerOptions extends QueueAddress {
  /** Processes that run attempts. Default: one a processor. */
  readonly processes?: number;
  /** Attempts taken from the queue at once; those beyond `processes` wait here. Default: `processes`. */
  readonly prefetch?: number;
  /** Ends the worker. */
  readonly signal?: AbortSignal;
  /** Called when the worker has begun to take attempts. */
  readonly onReady?: () => void;
}

/** Takes attempts from a queue and runs them, until the signal fires. */
export async function runQueueWorker(options: QueueWorkerOptions): Promise<void> {
  const { redis, queue = defaultQueue, processes = availableParallelism() } = options;
  await checkRedis(redis);
  const pool = new LocalPool({ slots: processes, threads: availableParallelism() });
  const free = new Semaphore(processes);
  /** The attempt's name in the queue, to the name under which it runs here. */
  const names = new Map<string, string>();
  let count = 0;
  const id = randomBytes(3).toString("hex");
  const work = async ({ data }: Job<Attempt>): Promise<Outcome> => {
    await free.take();
    // The queue may give one attempt to two workers; their files must not be one.
    const own = `${data.attempt}-${id}${(count++).toString(36)}`;
    names.set(data.attempt, own);
    try {
      const done = readCommit(data.root, data.task.key);
      if (done) return { attempt: data.attempt, commit: done };
      const threads = Math.min(data.threads, availableParallelism());
      return { ...(await pool.run({ ...data, attempt: own, threads })), attempt: data.attempt };
    } finally {
      names.delete(data.attempt);
      free.give();
    }
  };
  const connections = [connect(redis), connect(redis)];
  const worker = new Worker<Attempt, Outcome>(queue, work, {
    connection: connections[0] as never,
    concurrency: options.prefetch ?? processes,
    lockDuration: lockMs,
    stalledInterval: 2000,
    maxStalledCount: 20,
  });
  worker.on("error", () => {});
  connections[1].on("message", (_, attempt) => {
    const own = names.get(attempt);
    if (own !== undefined) pool.cancel(own);
  });
  await connections[1].subscribe(cancelChannel(queue));
  await worker.waitUntilReady();
  options.onReady?.();
  await new Promise<void>((done) => {
    if (options.signal?.aborted) done();
    options.signal?.addEventListener("abort", () => done(), { once: true });
  });
  await pool.close();
  await Promise.race([worker.close(true), new Promise((done) => setTimeout(done, 1000))]);
  for (const connection of connections) connection.disconnect();
}

/** Lets `places` in at once; others wait in order. */
class Semaphore {
  private places: number;
  private readonly waiting: (() => void)[] = [];

  constructor(places: number) {
    this.places = places;
  }

  async take(): Promise<void> {
    if (this.places > 0) this.places--;
    else await new Promise<void>((enter) => this.waiting.push(enter));
  }

  give(): void {
    const next = this.waiting.shift();
    if (next) next();
    else this.places++;
  }
}
