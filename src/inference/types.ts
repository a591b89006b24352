/** @file What goes in and out of an engine: plain data, cloneable between threads. */

/** How the next token is drawn. All fields set; `defaultSampling` holds the neutral values. */
export interface Sampling {
  /** 0 is greedy. */
  readonly temperature: number;
  /** Keep the fewest tokens whose probabilities reach this sum; 1 keeps all. */
  readonly topP: number;
  /** Keep this many of the likeliest; 0 keeps all. */
  readonly topK: number;
  /** Keep tokens at least this probable relative to the likeliest; 0 keeps all. */
  readonly minP: number;
  /** Subtracted from a token's logit once it occurs in the answer. */
  readonly presencePenalty: number;
  /** Subtracted for each occurrence in the answer. */
  readonly frequencyPenalty: number;
  /** Divides positive, multiplies negative logits of tokens in prompt or answer; 1 is none. */
  readonly repetitionPenalty: number;
  /** Same seed and prompt, same answer, whatever else runs. */
  readonly seed: number;
  /** Added to the logits of token ids. */
  readonly logitBias: readonly (readonly [tokenId: number, bias: number])[];
}

/** Sampling from the model's own distribution: temperature 1, nothing filtered or penalised. */
export const defaultSampling: Sampling = {
  temperature: 1,
  topP: 1,
  topK: 0,
  minP: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
  seed: 0,
  logitBias: [],
};

/** One sequence to generate. */
export interface GenerationRequest {
  readonly id: string;
  /** Token ids, at least one. */
  readonly prompt: readonly number[];
  /** Most tokens to generate; at least 1. */
  readonly maxTokens: number;
  readonly sampling: Sampling;
  /** The answer ends before the first of these strings. */
  readonly stop: readonly string[];
  /** Ids that end the answer besides the model's own. */
  readonly stopTokenIds: readonly number[];
  /** Go on after the model's end token. */
  readonly ignoreEos: boolean;
  /** Undefined: none. 0: the drawn token's. n: also the n likeliest. */
  readonly logprobs?: number | undefined;
}

/** A token's log probability under the distribution before temperature and filters. */
export interface TokenLogprob {
  readonly tokenId: number;
  readonly logprob: number;
}

/** Why an answer ended. */
export type FinishReason = "stop" | "length" | "cancelled" | "error";

/** Token counts of one answer. */
export interface Usage {
  readonly promptTokens: number;
  /** Prompt tokens found in the prefix cache. */
  readonly cachedTokens: number;
  readonly completionTokens: number;
}

/**
 * What an engine reports about one request after a step. `text` is what may be shown now: it holds
 * back bytes of an unfinished character and text that may turn out to be a stop string.
 */
export interface GenerationEvent {
  readonly id: string;
  readonly tokenIds: readonly number[];
  readonly text: string;
  /** One per token id where asked for. */
  readonly logprobs?: readonly (TokenLogprob & { readonly top: readonly TokenLogprob[] })[];
  /** Set on the last event. */
  readonly finish?: {
    readonly reason: FinishReason;
    readonly usage: Usage;
    /** One clear sentence, where reason is "error". */
    readonly message?: string;
    /** Its stable code, a key of `engineErrors`. */
    readonly code?: string;
    /** The stop string or id that ended it, where reason is "stop". */
    readonly stop?: string | number;
    /** Milliseconds it waited in the engine before its first step; absent where it had none. */
    readonly queueMs?: number;
  };
}

/** The engine's state and totals, published after steps; counters only grow. */
export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  readonly blocksTotal: number;
  /** Blocks that live sequences hold. */
  readonly blocksUsed: number;
  /** Blocks kept only for the prefix cache. */
  readonly blocksCached: number;
  readonly steps: number;
  readonly promptTokens: number;
  readonly cachedPromptTokens: number;
  readonly generatedTokens: number;
  readonly preemptions: number;
  readonly draftedTokens: number;
  readonly acceptedTokens: number;
  readonly finished: Readonly<Record<FinishReason, number>>;
  /** Milliseconds spent in steps. */
  readonly busyMs: number;
  /** `[layers, experts]`, tokens routed since the start. */
  readonly expertLoad: {
    readonly layers: number;
    readonly experts: number;
    readonly counts: Float64Array;
  };
}

/** What the HTTP layer needs to know of the served model. */
export interface ModelInfo {
  readonly id: string;
  readonly description: string;
  readonly maxContext: number;
  readonly vocabSize: number;
  readonly blocksTotal: number;
}

/**
 * An engine behind a thread boundary. Every request ends with exactly one event that carries
 * `finish`, whatever happens; none is lost.
 */
export interface EngineService {
  readonly info: ModelInfo;
  /** Why the engine's thread died, and with it every open request; undefined while it is well. */
  readonly failed: Error | undefined;
  /** Yields the request's events; aborting `signal`, or leaving the loop, cancels it in a step. */
  generate(request: GenerationRequest, signal?: AbortSignal): AsyncIterable<GenerationEvent>;
  /** The latest published state. */
  stats(): EngineStats;
  /** Refuses new requests, gives running ones `graceMs` to finish, then stops the thread. */
  close(graceMs?: number): Promise<void>;
}
