/** @file What a server is told, and what it serves. */
import type { EngineService } from "../types.ts";
import type { SamplingDefaults } from "./sampling.ts";

/** What the server needs of a tokenizer. */
export interface TextCodec {
  /**
   * The ids of a text, framed as sequences begin where `addSpecialTokens`; special tokens that are
   * spelt out become their ids where `allowSpecial`.
   */
  encode(text: string, options: { addSpecialTokens: boolean; allowSpecial: boolean }): number[];
  /** The bytes that a token stands for; none for ids that have no text. */
  tokenBytes(id: number): Uint8Array;
}

/** One message of a conversation. */
export type PlainMessage = {
  readonly role: string;
  readonly content: string;
};

/** A loaded model behind an engine. */
export interface Served {
  readonly engine: EngineService;
  readonly tokenizer: TextCodec;
  /**
   * The ids of a conversation, up to where the assistant's answer begins; throws for one that the
   * model's chat template refuses. Absent where the model has none: chat requests are refused.
   */
  readonly encodeChat?: ((messages: readonly PlainMessage[]) => number[]) | undefined;
  /** Sampling of requests that say nothing; see `samplingDefaults`. */
  readonly defaults?: SamplingDefaults | undefined;
}

/** Limits and doors of a server. */
export interface HttpOptions {
  /** Keys that `/v1` and `/metrics` ask for; none: open to all. */
  readonly apiKeys: readonly string[];
  /** Origins whose pages may call the server; "*" for all. */
  readonly corsOrigins: readonly string[];
  readonly maxBodyBytes: number;
  /** Choices handed to the engine at a time. */
  readonly maxConcurrent: number;
  /** Choices that may wait for that; more are refused with 429. */
  readonly maxQueue: number;
  /** A reader whose buffer stays full for so long is cut off. */
  readonly stallMs: number;
  /** Stated in `/openapi.json`. */
  readonly version: string;
  /** Folder of the page at `/`. */
  readonly pageDir?: string | undefined;
  /** Takes one line for each failure of the server's own. */
  readonly log: (line: string) => void;
}

/** Options of a server that is told nothing. */
export const defaultHttpOptions: HttpOptions = {
  apiKeys: [],
  corsOrigins: [],
  maxBodyBytes: 2 * 1024 * 1024,
  maxConcurrent: 512,
  maxQueue: 1024,
  stallMs: 60_000,
  version: "0",
  log: (line) => process.stderr.write(`${line}\n`),
};
