/** @file `baleen generate`: continues a text, or answers it with `--chat`, to standard output. */
import { type FinishReason, type LoadedModel, loadServed } from "../inference/index.ts";
import { type Command, defineCommand } from "./command.ts";
import {
  engineFlags,
  samplingFlags,
  samplingOf,
  startOptions,
  tellSlowRung,
} from "./engine-flags.ts";
import { UsageError } from "./flags.ts";
import { readStdin } from "./input.ts";

/** Streams one answer to standard output. */
export const generate: Command = defineCommand({
  name: "generate",
  summary: "Continue a text, or with --chat answer it, on standard output.",
  flags: {
    prompt: {
      type: "text",
      short: "p",
      value: "TEXT",
      help: "The text; standard input unless given.",
    },
    chat: { type: "switch", help: "Send the text as a user's message, by the model's template." },
    ...samplingFlags,
    stop: { type: "list", value: "TEXT", help: "End before this text; may be repeated." },
    "ignore-eos": { type: "switch", help: "Go on after the model's end token." },
    ...engineFlags,
  },
  examples: [
    'baleen generate --prompt "It is a truth universally acknowledged"',
    "baleen generate --max-tokens 50 --temperature 0 < FILE",
  ],
  async run({ flags, operands }) {
    if (operands.length > 0) throw new UsageError(`Give the text as --prompt "${operands[0]}".`);
    const advice = "There is no text: give --prompt TEXT, or pipe one in.";
    const text = flags.prompt ?? (await readStdin(advice));
    const stop = flags.stop.map((one) => {
      if (one === "") throw new UsageError("--stop: is empty: give a text or leave it out.");
      return one;
    });
    const model = await loadServed(startOptions(flags));
    tellSlowRung(model.engine.info.description, flags.rung);
    const cancel = new AbortController();
    process.once("SIGINT", () => cancel.abort());
    try {
      const prompt = promptOf(text, flags.chat, model);
      const request = {
        id: "generate",
        prompt,
        maxTokens: flags["max-tokens"],
        sampling: samplingOf(flags, model.defaults ?? {}),
        stop,
        stopTokenIds: [],
        ignoreEos: flags["ignore-eos"],
      };
      const reason = await stream(model, request, cancel.signal);
      if (reason === "cancelled") process.exitCode = 130;
    } finally {
      await model.engine.close(0);
    }
  },
});

function promptOf(text: string, chat: boolean, model: LoadedModel): number[] {
  const { tokenizer, encodeChat } = model;
  if (!chat) return tokenizer.encode(text, { addSpecialTokens: true, allowSpecial: true });
  if (encodeChat) return encodeChat([{ role: "user", content: text }]);
  throw new UsageError("--chat: this model has no chat template: leave the flag out.");
}

/** Writes the answer as it comes; says how fast it was where a person looks on. */
async function stream(
  { engine }: LoadedModel,
  request: Parameters<LoadedModel["engine"]["generate"]>[0],
  signal: AbortSignal,
): Promise<FinishReason | undefined> {
  const begunMs = performance.now();
  let firstMs = 0;
  for await (const { text, finish } of engine.generate(request, signal)) {
    firstMs ||= performance.now();
    process.stdout.write(text);
    if (!finish) continue;
    process.stdout.write("\n");
    if (finish.reason === "error") throw Object.assign(new Error(finish.message), finish);
    if (process.stderr.isTTY) {
      const { promptTokens, completionTokens } = finish.usage;
      const rate = (completionTokens - 1) / ((performance.now() - firstMs) / 1000);
      process.stderr.write(
        `[${promptTokens} prompt tokens in ${Math.round(firstMs - begunMs)} ms, ` +
          `${completionTokens} tokens at ${Math.round(rate)} tokens/s, ${finish.reason}]\n`,
      );
    }
    return finish.reason;
  }
  return undefined;
}
