/** @file A scripted engine and tokenizer: what tests and benchmarks of the server stand on. */
import { BaleenError } from "../../base/index.ts";
import type {
  EngineService,
  EngineStats,
  FinishReason,
  GenerationEvent,
  GenerationRequest,
  ModelInfo,
} from "../types.ts";
import type { PlainMessage, Served, TextCodec } from "./options.ts";
import { type ListenOptions, type RunningServer, startServer } from "./server.ts";

/** One token for each byte, and 0xff as an id that has no text. */
export const byteCodec: TextCodec = {
  encode: (text) => Array.from(Buffer.from(text)),
  tokenBytes: (id) => (id < 255 ? Uint8Array.of(id) : new Uint8Array(0)),
};

/** `role: content` lines; refuses two messages of one role in a row. */
export function encodeLines(messages: readonly PlainMessage[]): number[] {
  messages.forEach((message, index) => {
    if (message.role !== messages[index - 1]?.role) return;
    throw new BaleenError("chat-template-failed", "roles must alternate. Change their order.");
  });
  const lines = messages.map(({ role, content }) => `${role}: ${content}\n`);
  return Array.from(Buffer.from(lines.join("")));
}

/** What the scripted engine does. */
export interface Script {
  /** The bytes of its answers, repeated without end. */
  readonly text?: string;
  /** Milliseconds between tokens; 0: one in each turn of the event loop. */
  readonly tokenMs?: number;
  /** Tokens in one event. */
  readonly tokensPerEvent?: number;
  /** Ends every answer so, after `failAfter` tokens. */
  readonly fail?: { readonly code: string; readonly message: string };
  readonly failAfter?: number;
  readonly maxContext?: number;
}

/** An engine that answers from a script, and remembers what it was asked and what was cancelled. */
export class ScriptedEngine implements EngineService {
  readonly info: ModelInfo;
  readonly requests: GenerationRequest[] = [];
  readonly cancelled: string[] = [];
  failed: Error | undefined;
  running = 0;
  /** Most that ran at a time. */
  peak = 0;
  generated = 0;
  closed = false;
  private readonly script: Script;
  private readonly finished: Record<FinishReason, number> = {
    stop: 0,
    length: 0,
    cancelled: 0,
    error: 0,
  };
  private readonly wakers = new Set<() => void>();

  constructor(script: Script = {}) {
    this.script = script;
    this.info = {
      id: "scripted",
      description: "a scripted engine",
      maxContext: script.maxContext ?? 4096,
      vocabSize: 256,
      blocksTotal: 64,
    };
  }

  async *generate(
    request: GenerationRequest,
    signal?: AbortSignal,
  ): AsyncIterable<GenerationEvent> {
    this.requests.push(request);
    this.peak = Math.max(this.peak, ++this.running);
    let ended = false;
    try {
      for await (const event of this.events(request, signal)) {
        ended = event.finish !== undefined;
        yield event;
      }
    } finally {
      this.running--;
      if (!ended) this.cancelled.push(request.id);
    }
  }

  private async *events(
    request: GenerationRequest,
    signal: AbortSignal | undefined,
  ): AsyncIterable<GenerationEvent> {
    const { text = "hello ", tokensPerEvent = 1, fail, failAfter = 0 } = this.script;
    const bytes = Buffer.from(text);
    let tokens = 0;
    let answer = "";
    while (tokens < request.maxTokens) {
      if (fail && tokens >= failAfter) return yield this.last(request, tokens, "error", fail);
      await this.pause(signal);
      if (signal?.aborted || this.closed) {
        if (signal?.aborted) this.cancelled.push(request.id);
        return yield this.last(request, tokens, "cancelled");
      }
      const count = Math.min(tokensPerEvent, request.maxTokens - tokens);
      const ids = Array.from({ length: count }, (_, i) => bytes[(tokens + i) % bytes.length]);
      tokens += count;
      this.generated += count;
      answer += Buffer.from(ids).toString("latin1");
      const stop = request.stop.find((one) => answer.endsWith(one));
      if (stop) return yield { ...this.last(request, tokens, "stop"), tokenIds: ids };
      yield this.event(request, ids);
    }
    yield this.last(request, tokens, "length");
  }

  private event(request: GenerationRequest, ids: number[]): GenerationEvent {
    return {
      id: request.id,
      tokenIds: ids,
      text: Buffer.from(ids).toString("latin1"),
      ...(request.logprobs !== undefined && {
        logprobs: ids.map((tokenId) => ({
          tokenId,
          logprob: -0.5,
          top: Array.from({ length: request.logprobs! }, (_, rank) => ({
            tokenId: rank === 0 ? tokenId : rank,
            logprob: rank === 1 ? Number.NEGATIVE_INFINITY : -0.5 - rank,
          })),
        })),
      }),
    };
  }

  private last(
    request: GenerationRequest,
    tokens: number,
    reason: FinishReason,
    failure?: { code: string; message: string },
  ): GenerationEvent {
    this.finished[reason]++;
    const usage = {
      promptTokens: request.prompt.length,
      cachedTokens: request.prompt.length >> 1,
      completionTokens: tokens,
    };
    return { id: request.id, tokenIds: [], text: "", finish: { reason, usage, ...failure } };
  }

  private pause(signal: AbortSignal | undefined): Promise<void> {
    const { tokenMs = 0 } = this.script;
    if (tokenMs === 0) return new Promise(setImmediate);
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.wakers.delete(wake);
        signal?.removeEventListener("abort", wake);
        resolve();
      };
      const timer = setTimeout(wake, tokenMs);
      this.wakers.add(wake);
      signal?.addEventListener("abort", wake);
    });
  }

  stats(): EngineStats {
    return {
      running: this.running,
      waiting: 0,
      blocksTotal: 64,
      blocksUsed: this.running * 2,
      blocksCached: 8,
      steps: this.generated,
      promptTokens: this.requests.reduce((sum, request) => sum + request.prompt.length, 0),
      cachedPromptTokens: 0,
      generatedTokens: this.generated,
      preemptions: 0,
      draftedTokens: 10,
      acceptedTokens: 7,
      finished: this.finished,
      busyMs: 5,
      expertLoad: { layers: 2, experts: 3, counts: Float64Array.of(1, 2, 3, 4, 4, 4) },
    };
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const wake of this.wakers) wake();
  }
}

/** A scripted engine with a tokenizer and a template. */
export function scriptedServed(engine: ScriptedEngine): Served {
  return { engine, tokenizer: byteCodec, encodeChat: encodeLines };
}

/** A server over a scripted engine, and the short ways to call it. */
export interface TestServer {
  readonly engine: ScriptedEngine;
  readonly server: RunningServer;
  readonly url: string;
  /** POSTs a JSON value, or a string or bytes as they are. */
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
}

/** Runs `use` against a server on a free port, and closes it whatever happens. */
export async function withServer(
  script: Script,
  options: ListenOptions,
  use: (server: TestServer) => Promise<void>,
): Promise<void> {
  const engine = new ScriptedEngine(script);
  const server = await startServer(scriptedServed(engine), options);
  try {
    await use({
      engine,
      server,
      url: server.url,
      post: (path, body, headers = {}) =>
        fetch(server.url + path, {
          method: "POST",
          headers: { "content-type": "application/json", ...headers },
          body:
            typeof body === "string" || body instanceof Uint8Array
              ? (body as string)
              : JSON.stringify(body),
        }),
    });
  } finally {
    await server.drain(0);
  }
}

/** The parsed `data` of a finished event stream; "[DONE]" as it is. */
export async function readEvents(response: Response): Promise<unknown[]> {
  const text = await response.text();
  return text
    .split("\n\n")
    .filter((block) => block !== "")
    .map((block) => {
      const data = block.slice(block.indexOf("data: ") + 6);
      return data === "[DONE]" ? data : JSON.parse(data);
    });
}

/** Waits until `holds`, or throws after `ms`. */
export async function eventually(holds: () => boolean, ms = 10_000): Promise<void> {
  const untilMs = performance.now() + ms;
  while (!holds()) {
    if (performance.now() > untilMs) throw new Error(`still not so after ${ms} ms: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
