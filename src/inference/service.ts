/**
 * @file An engine in a thread of its own, seen from the thread that serves: requests become streams
 * of events. Whatever happens to the thread, each stream ends with one event that has a `finish`.
 */
import { basename, resolve } from "node:path";
import { Worker } from "node:worker_threads";
import { BaleenError, workerUrl } from "../base/index.ts";
import { engineError } from "./errors.ts";
import { type Command, type Report, refusalOf, type StartOptions } from "./protocol.ts";
import type {
  EngineService,
  EngineStats,
  GenerationEvent,
  GenerationRequest,
  ModelInfo,
} from "./types.ts";

/** How long running requests get to end when an engine is closed, unless told otherwise. */
const graceMsDefault = 10_000;
/** How long a thread may take over its current step, and then over its end. */
const stopMs = 5_000;

/**
 * A running engine over the model of `modelDir`, once it is loaded.
 * Errors: BaleenError of the model or the engine where it can't be; the thread is gone then.
 */
export async function startEngine(options: StartOptions): Promise<EngineService> {
  const worker = new Worker(workerUrl(import.meta.url, "./worker"), { workerData: options });
  const ready = await firstReport(worker);
  const { modelDir } = options;
  const id = options.id ?? (modelDir === undefined ? "null" : basename(resolve(modelDir)));
  return new ThreadedEngine(worker, { id, ...ready.info }, ready.stats);
}

/** Resolves when the thread is ready; rejects with why it is not, once it has ended. */
async function firstReport(worker: Worker): Promise<Report & { type: "ready" }> {
  const started = new AbortController();
  const { signal } = started;
  try {
    return await new Promise((settle, fail) => {
      let failure: unknown;
      const onMessage = (report: Report) => {
        if (report.type === "ready") settle(report);
        else failure = errorOf(report);
      };
      const onError = (error: Error) => {
        failure = error;
      };
      const onExit = (code: number) => {
        const message = `The engine's thread ended with code ${code} while it was loading.`;
        fail(failure ?? engineError("engine-failed", message));
      };
      worker.on("message", onMessage).on("error", onError).on("exit", onExit);
      signal.addEventListener("abort", () => {
        worker.off("message", onMessage).off("error", onError).off("exit", onExit);
      });
    });
  } finally {
    started.abort();
  }
}

function errorOf(report: Report): Error {
  if (report.type !== "failed") return new Error(`unexpected report ${report.type}`);
  const { code, message, retry } = report;
  return code === undefined ? new Error(message) : new BaleenError(code, message, { retry });
}

class ThreadedEngine implements EngineService {
  readonly info: ModelInfo;
  private readonly worker: Worker;
  private readonly open = new Map<string, EventStream>();
  private readonly exited: Promise<void>;
  private latest: EngineStats;
  private outbox: Command[] = [];
  private failure: Error | undefined;
  private closing: Promise<void> | undefined;
  private drained: (() => void) | undefined;

  constructor(worker: Worker, info: ModelInfo, stats: EngineStats) {
    this.worker = worker;
    this.info = info;
    this.latest = stats;
    worker.on("message", (report: Report) => this.receive(report));
    worker.on("error", (error) => this.fail(error));
    this.exited = new Promise((settle) => {
      worker.once("exit", (code) => {
        this.fail(this.closing ? undefined : new Error(`the thread ended with code ${code}`));
        settle();
      });
    });
  }

  get failed(): Error | undefined {
    return this.failure;
  }

  stats(): EngineStats {
    return this.latest;
  }

  generate(request: GenerationRequest, signal?: AbortSignal): AsyncIterable<GenerationEvent> {
    const { id } = request;
    const refusal = this.refusal(request);
    const cancel = () => {
      if (this.open.get(id) === stream) this.send({ type: "cancel", id });
    };
    const stream = new EventStream(request, () => {
      signal?.removeEventListener("abort", cancel);
      cancel();
    });
    if (refusal) {
      stream.fail(refusal);
      return stream;
    }
    this.open.set(id, stream);
    this.send({ type: "add", request });
    if (signal?.aborted) cancel();
    else signal?.addEventListener("abort", cancel, { once: true });
    return stream;
  }

  close(graceMs: number = graceMsDefault): Promise<void> {
    this.closing ??= this.shutDown(graceMs);
    return this.closing;
  }

  private refusal({ id }: GenerationRequest): BaleenError | undefined {
    if (this.failure) return engineError("engine-failed", failedMessage(this.failure));
    if (this.closing) {
      return engineError("engine-closing", "The engine shuts down: send the request again later.");
    }
    if (this.open.has(id)) {
      return engineError("invalid-request", `id ${id} is in use: give another one.`);
    }
    return undefined;
  }

  private async shutDown(graceMs: number): Promise<void> {
    await this.untilDrained(graceMs);
    for (const id of this.open.keys()) this.send({ type: "cancel", id });
    // A step may be under way; what it says still reaches the streams.
    await this.untilDrained(stopMs);
    this.send({ type: "close" });
    const stop = setTimeout(() => void this.worker.terminate(), stopMs);
    await this.exited;
    clearTimeout(stop);
  }

  /** Resolves when no request is open, or after `ms`. */
  private async untilDrained(ms: number): Promise<void> {
    if (this.open.size === 0) return;
    await new Promise<void>((settle) => {
      const timer = setTimeout(settle, ms);
      this.drained = () => {
        clearTimeout(timer);
        settle();
      };
    });
    this.drained = undefined;
  }

  /** Sends what a turn of the event loop has to say as one message. */
  private send(command: Command): void {
    if (this.outbox.length === 0) {
      queueMicrotask(() => {
        const commands = this.outbox;
        this.outbox = [];
        this.worker.postMessage(commands);
      });
    }
    this.outbox.push(command);
  }

  private receive(report: Report): void {
    if (report.type !== "events") return;
    // First the state, so that a reader of the last event sees its request counted.
    if (report.stats) this.latest = report.stats;
    for (const event of report.events) this.deliver(event);
  }

  private deliver(event: GenerationEvent): void {
    const stream = this.open.get(event.id);
    if (event.finish) this.open.delete(event.id);
    stream?.push(event);
    if (this.open.size === 0) this.drained?.();
  }

  /** Ends every open request; without an error the thread was stopped on purpose. */
  private fail(error: Error | undefined): void {
    this.failure ??= error;
    const refusal = error
      ? engineError("engine-failed", failedMessage(this.failure ?? error))
      : engineError("engine-closing", "The engine shut down before the answer was complete.");
    for (const [id, stream] of this.open) {
      this.open.delete(id);
      stream.fail(refusal);
    }
    this.drained?.();
  }
}

function failedMessage(error: Error): string {
  return `The engine's thread died (${error.message}): restart the server, and look into its log.`;
}

/** A request's events, for one reader; leaving the loop early cancels the request. */
class EventStream implements AsyncIterableIterator<GenerationEvent> {
  private readonly request: GenerationRequest;
  private readonly leave: () => void;
  private readonly events: GenerationEvent[] = [];
  private readonly readers: ((result: IteratorResult<GenerationEvent>) => void)[] = [];
  private tokens = 0;
  private ended = false;

  /** `leave` is called once, when the reader has the last event or goes without it. */
  constructor(request: GenerationRequest, leave: () => void) {
    this.request = request;
    this.leave = leave;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  push(event: GenerationEvent): void {
    this.tokens += event.tokenIds.length;
    this.events.push(event);
    const reader = this.readers.shift();
    if (reader) reader(this.take());
  }

  /** Ends the stream with an error event that counts the tokens so far. */
  fail(error: BaleenError): void {
    const event = refusalOf(this.request, error);
    const usage = { ...event.finish!.usage, completionTokens: this.tokens };
    this.push({ ...event, finish: { ...event.finish!, usage } });
  }

  next(): Promise<IteratorResult<GenerationEvent>> {
    if (this.events.length > 0 || this.ended) return Promise.resolve(this.take());
    return new Promise((settle) => this.readers.push(settle));
  }

  return(): Promise<IteratorResult<GenerationEvent>> {
    this.end();
    return Promise.resolve({ value: undefined, done: true });
  }

  private take(): IteratorResult<GenerationEvent> {
    const value = this.ended ? undefined : this.events.shift();
    if (value === undefined) return { value, done: true };
    if (value.finish) this.end();
    return { value, done: false };
  }

  private end(): void {
    if (this.ended) return;
    this.ended = true;
    this.leave();
    for (const reader of this.readers.splice(0)) reader({ value: undefined, done: true });
  }
}
