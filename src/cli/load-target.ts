/** @file What a load is put on: an engine in this process, or a server at a URL. */
import { BaleenError } from "../base/index.ts";
import type { EngineService, ModelInfo } from "../inference/index.ts";

/** One request of a load. */
export interface LoadRequest {
  readonly prompt: readonly number[];
  readonly outputTokens: number;
  readonly seed: number;
}

/** Something that answers; throws where a request fails. */
export interface LoadTarget {
  readonly description: string;
  /** Ids of prompts are below it. */
  readonly vocabSize: number;
  /** Yields the number of tokens in each event, as the events come. */
  answer(request: LoadRequest): AsyncIterable<number>;
  close(): Promise<void>;
}

/** An engine of this process. */
export function engineTarget(engine: EngineService): LoadTarget {
  let requests = 0;
  return {
    description: engine.info.description,
    vocabSize: engine.info.vocabSize,
    async *answer({ prompt, outputTokens, seed }) {
      const request = {
        id: `bench-${requests++}`,
        prompt,
        maxTokens: outputTokens,
        sampling: {
          temperature: 1,
          topP: 1,
          topK: 0,
          minP: 0,
          presencePenalty: 0,
          frequencyPenalty: 0,
          repetitionPenalty: 1,
          seed,
          logitBias: [],
        },
        stop: [],
        stopTokenIds: [],
        ignoreEos: true,
      };
      for await (const { tokenIds, finish } of engine.generate(request)) {
        if (tokenIds.length > 0) yield tokenIds.length;
        if (finish?.reason === "error") throw new Error(finish.message);
      }
    },
    close: () => engine.close(0),
  };
}

/** A server by the OpenAI API; `key` is sent where given. */
export async function urlTarget(url: string, key: string | undefined): Promise<LoadTarget> {
  const base = url.replace(/\/+$/, "").replace(/\/v1$/, "");
  const headers = {
    "content-type": "application/json",
    ...(key !== undefined && { authorization: `Bearer ${key}` }),
  };
  const { model, vocabSize } = await describe(base, headers);
  return {
    description: `${model} at ${base}`,
    vocabSize,
    async *answer({ prompt, outputTokens, seed }) {
      const response = await fetch(`${base}/v1/completions`, {
        method: "POST",
        headers,
        body: JSON.stringify({
          model,
          prompt,
          max_tokens: outputTokens,
          seed,
          temperature: 1,
          ignore_eos: true,
          stream: true,
          // One entry for each token: texts may be held back, or several in one event.
          logprobs: 0,
        }),
      });
      if (!response.ok) throw new Error(`status ${response.status}: ${await response.text()}`);
      yield* tokensOf(response);
    },
    close: async () => {},
  };
}

async function describe(
  base: string,
  headers: Record<string, string>,
): Promise<{ model: string; vocabSize: number }> {
  const get = async (path: string): Promise<unknown> => {
    let response: Response;
    try {
      response = await fetch(base + path, { headers });
    } catch (cause) {
      const message = `Nobody answers at ${base}: start a server there or correct --url.`;
      throw new BaleenError("target-unreachable", message, { cause, retry: "same" });
    }
    if (response.ok) return response.json();
    throw new BaleenError(
      "target-refuses",
      `${base}${path} answers ${response.status}: check --url and --api-key.`,
    );
  };
  const { data } = (await get("/v1/models")) as { data: readonly { id: string }[] };
  // Other servers don't tell: small ids are in any vocabulary.
  const info = (await get("/v1/engine/info").catch(() => ({}))) as Partial<ModelInfo>;
  return { model: data[0].id, vocabSize: info.vocabSize ?? 1000 };
}

interface StreamedEvent {
  readonly error?: { readonly message: string };
  readonly choices?: readonly {
    readonly text: string;
    readonly logprobs?: { readonly tokens?: readonly string[] } | null;
  }[];
}

async function* tokensOf(response: Response): AsyncIterable<number> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const piece of response.body!) {
    text += decoder.decode(piece, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop()!;
    for (const block of blocks) {
      const data = block.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const { error, choices } = JSON.parse(data) as StreamedEvent;
      if (error) throw new Error(error.message);
      const [choice] = choices ?? [];
      const tokens = choice?.logprobs?.tokens?.length ?? (choice?.text ? 1 : 0);
      if (tokens > 0) yield tokens;
    }
  }
  throw new Error("the stream ended before [DONE]");
}
