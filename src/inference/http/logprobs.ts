/** @file Log probabilities in the two forms of the OpenAI API. */
import type { GenerationEvent, TokenLogprob } from "../types.ts";
import type { TextCodec } from "./options.ts";

const lossy = new TextDecoder();
const strict = new TextDecoder("utf-8", { fatal: true });

/** A token in the chat form: its text (replacement characters where split), and its bytes. */
interface ChatTokenLogprob {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: number[];
}

/** An entry of a chat answer's `logprobs.content`. */
export interface ChatLogprob extends ChatTokenLogprob {
  readonly top_logprobs: ChatTokenLogprob[];
}

/** The chat form of an event's log probabilities. */
export function chatLogprobs(
  entries: NonNullable<GenerationEvent["logprobs"]>,
  codec: TextCodec,
): ChatLogprob[] {
  return entries.map((entry) => ({
    ...chatToken(entry, codec),
    top_logprobs: entry.top.map((one) => chatToken(one, codec)),
  }));
}

function chatToken({ tokenId, logprob }: TokenLogprob, codec: TextCodec): ChatTokenLogprob {
  const bytes = codec.tokenBytes(tokenId);
  return { token: lossy.decode(bytes), logprob: finite(logprob), bytes: Array.from(bytes) };
}

/** The completion form: parallel lists. */
export interface CompletionLogprobs {
  readonly tokens: string[];
  readonly token_logprobs: number[];
  readonly top_logprobs: Record<string, number>[];
  /** Characters (code points) of the answer before each token. */
  readonly text_offset: number[];
}

/** Collects the completion form of one choice, whose offsets go on from event to event. */
export class CompletionLogprobList {
  private readonly codec: TextCodec;
  private offset = 0;

  constructor(codec: TextCodec) {
    this.codec = codec;
  }

  /** The lists for the next tokens of the answer. */
  next(entries: NonNullable<GenerationEvent["logprobs"]>): CompletionLogprobs {
    const lists: CompletionLogprobs = {
      tokens: [],
      token_logprobs: [],
      top_logprobs: [],
      text_offset: [],
    };
    for (const entry of entries) {
      const bytes = this.codec.tokenBytes(entry.tokenId);
      lists.tokens.push(spell(bytes));
      lists.token_logprobs.push(finite(entry.logprob));
      const top = [...entry.top, entry].map((one) => [
        spell(this.codec.tokenBytes(one.tokenId)),
        finite(one.logprob),
      ]);
      lists.top_logprobs.push(Object.fromEntries(top));
      lists.text_offset.push(this.offset);
      for (const byte of bytes) if ((byte & 0xc0) !== 0x80) this.offset++;
    }
    return lists;
  }
}

/** A token's text, or `bytes:\xe2\x80` where it is not whole characters. */
function spell(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    const codes = Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`);
    return `bytes:${codes.join("")}`;
  }
}

/** JSON has no infinities; -9999 is the OpenAI API's value for "never". */
function finite(logprob: number): number {
  return Number.isFinite(logprob) ? logprob : -9999;
}
