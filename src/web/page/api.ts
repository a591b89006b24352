/**
 * @file The server as the page sees it: what the model is, completions that stream, the engine's
 * state. Event streams are read from `fetch`, since `EventSource` can send no API key.
 */

/** `ModelInfo` as JSON. */
export interface ModelInfo {
  readonly id: string;
  readonly description: string;
  readonly maxContext: number;
  readonly blocksTotal: number;
}

/** The part of `EngineStats` that the page draws, as JSON; counters only grow until a restart. */
export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  readonly blocksTotal: number;
  readonly blocksUsed: number;
  readonly blocksCached: number;
  readonly promptTokens: number;
  readonly cachedPromptTokens: number;
  readonly generatedTokens: number;
  readonly draftedTokens: number;
  readonly acceptedTokens: number;
  readonly busyMs: number;
  readonly expertLoad: {
    readonly layers: number;
    readonly experts: number;
    readonly counts: readonly number[];
  };
}

/** What the reader asks the model to write. */
export interface CompletionRequest {
  readonly model: string;
  readonly prompt: string;
  readonly temperature: number;
  readonly top_p: number;
  readonly max_tokens: number;
  readonly seed: number | undefined;
  /** Whether each piece should say how likely its tokens were. */
  readonly withProbabilities: boolean;
}

/** Text that arrived at once: mostly one token. */
export interface Piece {
  readonly text: string;
  readonly tokens: number;
  /** The mean (geometric) probability of its tokens, where asked for. */
  readonly probability: number | undefined;
}

/** How a completion ended. */
export interface Ending {
  readonly reason: string;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
}

/** A refusal or failure in a sentence that can be shown; `status` 0 where no answer came. */
export class ServerError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const keyName = "baleen.apiKey";

/** The API key of this browser tab; "" for none. */
export function apiKey(): string {
  return sessionStorage.getItem(keyName) ?? "";
}

/** Keeps the API key for as long as the tab lives. */
export function setApiKey(key: string): void {
  if (key) sessionStorage.setItem(keyName, key);
  else sessionStorage.removeItem(keyName);
}

/** What is served here. Throws `ServerError`. */
export async function fetchInfo(signal: AbortSignal): Promise<ModelInfo> {
  const response = await ask("v1/engine/info", { signal });
  return (await response.json()) as ModelInfo;
}

/** The engine's state, several times a second, until the server ends it. Throws `ServerError`. */
export async function* engineEvents(signal: AbortSignal): AsyncGenerator<EngineStats> {
  const response = await ask("v1/engine/events", { signal });
  for await (const data of eventData(response)) yield JSON.parse(data) as EngineStats;
}

/**
 * Streams a completion: `onPiece` for each piece of text, then resolves to how it ended. Aborting
 * `signal` cancels it on the server and rejects with an AbortError. Throws `ServerError`.
 */
export async function complete(
  request: CompletionRequest,
  onPiece: (piece: Piece) => void,
  signal: AbortSignal,
): Promise<Ending> {
  const { withProbabilities, ...rest } = request;
  const response = await ask("v1/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      ...rest,
      stream: true,
      stream_options: { include_usage: true },
      ...(withProbabilities ? { logprobs: 0 } : {}),
    }),
    signal,
  });
  let ending: Ending | undefined;
  let reason = "stop";
  for await (const data of eventData(response)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data) as CompletionChunk;
    if (chunk.error) throw new ServerError(response.status, chunk.error.message);
    const choice = chunk.choices[0];
    if (choice) onPiece(pieceOf(choice));
    reason = choice?.finish_reason ?? reason;
    if (chunk.usage) ending = endingOf(reason, chunk.usage);
  }
  if (!ending) {
    throw new ServerError(0, "The answer broke off: the server stopped. Try again in a moment.");
  }
  return ending;
}

interface CompletionChunk {
  readonly choices: readonly Choice[];
  readonly usage?: ChunkUsage | null;
  readonly error?: { readonly message: string };
}

interface Choice {
  readonly text: string;
  readonly logprobs: { readonly token_logprobs: readonly number[] } | null;
  readonly finish_reason: string | null;
}

interface ChunkUsage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly prompt_tokens_details?: { readonly cached_tokens?: number };
}

function pieceOf({ text, logprobs }: Choice): Piece {
  const values = logprobs?.token_logprobs ?? [];
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return {
    text,
    tokens: values.length || (text === "" ? 0 : 1),
    probability: values.length > 0 ? Math.exp(mean) : undefined,
  };
}

function endingOf(reason: string, usage: ChunkUsage): Ending {
  return {
    reason,
    promptTokens: usage.prompt_tokens,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    completionTokens: usage.completion_tokens,
  };
}

/** Fetches, with the key where there is one; turns every failure into a sentence. */
async function ask(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  if (apiKey()) headers.set("authorization", `Bearer ${apiKey()}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ServerError(0, "The server can't be reached. Is it running?");
  }
  if (response.ok) return response;
  throw new ServerError(response.status, await messageOf(response));
}

async function messageOf(response: Response): Promise<string> {
  try {
    const body = (await response.json()) as { error?: { message?: string } };
    if (body.error?.message) return body.error.message;
  } catch {
    // Not JSON: a proxy's page, perhaps. The status must do.
  }
  return `The server answered with status ${response.status}.`;
}

/** The `data` of each event of a server-sent event stream. */
async function* eventData(response: Response): AsyncGenerator<string> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer += value;
      const events = buffer.split("\n\n");
      buffer = events.pop()!;
      for (const event of events) {
        const lines = event.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length > 0) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    // Leaving early must close the connection, so that the server stops working for us.
    reader.cancel().catch(() => {});
  }
}
