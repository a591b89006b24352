/** @file `baleen logits`: the logits of every position of given prompts, as a safetensors file. */
import { ceilDiv } from "../base/index.ts";
import { pageTokens } from "../flash-mla/index.ts";
import { type LanguageModel, loadModel } from "../model/index.ts";
import { type Tensor, writeSafetensors, zeros } from "../tensor/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { loadOptions, modelDirectory, modelFlags, tellSlowRung } from "./engine-flags.ts";
import { UsageError } from "./flags.ts";
import { idsOf, readJsonFile } from "./input.ts";

/** Prompt tokens of one pass: bounds the activations' memory; the bits don't depend on it. */
const chunkTokens = 512;

/** Writes `p0.logits`, `p1.logits`, ...: float32 `[prompt length, vocabulary]`. */
export const logits: Command = defineCommand({
  name: "logits",
  summary: "Write the logits of given prompts to a safetensors file.",
  flags: {
    ...modelFlags,
    prompts: { type: "text", value: "FILE.json", help: "A list of lists of token ids." },
    out: {
      type: "text",
      value: "FILE.safetensors",
      help: "Gets float32 p0.logits, p1.logits, ... [prompt length, vocabulary].",
    },
  },
  examples: ["baleen logits --model DIR --prompts prompts.json --out logits.safetensors"],
  async run({ flags, operands }) {
    if (operands.length > 0) throw new UsageError(`logits takes no operand "${operands[0]}".`);
    if (flags.prompts === undefined) throw new UsageError("--prompts is missing: name a file.");
    if (flags.out === undefined) throw new UsageError("--out is missing: name a file.");
    const directory = modelDirectory(flags.model);
    const json = readJsonFile(flags.prompts);
    const model = await loadModel(directory, loadOptions(flags));
    tellSlowRung(model.description, flags.rung);
    try {
      const prompts = promptsOf(json, flags.prompts, model);
      writeSafetensors(flags.out, logitsOf(model, prompts), { model: model.description });
    } finally {
      model.close();
    }
  },
});

function promptsOf(json: unknown, file: string, model: LanguageModel): Int32Array[] {
  if (!Array.isArray(json)) throw new UsageError(`${file}: is no list: give a list of lists.`);
  return json.map((value: unknown, index) => {
    const ids = idsOf(value, model.vocabSize, `${file}: prompt ${index}`);
    if (ids.length === 0 || ids.length > model.maxContext) {
      throw new UsageError(
        `${file}: prompt ${index} has ${ids.length} tokens: give 1 to ${model.maxContext}.`,
      );
    }
    return Int32Array.from(ids);
  });
}

/** Every prompt's logits, by the name of their tensor. */
function logitsOf(model: LanguageModel, prompts: readonly Int32Array[]): Map<string, Tensor> {
  const longest = prompts.reduce((most, prompt) => Math.max(most, prompt.length), 1);
  const pages = ceilDiv(longest, pageTokens);
  const cache = model.openCache(pages);
  const blockTable = Int32Array.from({ length: pages }, (_, page) => page);
  const named = new Map<string, Tensor>();
  prompts.forEach((prompt, index) => {
    const out = zeros("f32", [prompt.length, model.vocabSize]);
    for (let position = 0; position < prompt.length; position += chunkTokens) {
      const tokens = prompt.subarray(position, position + chunkTokens);
      const { logits: rows } = model.forward(cache, [
        { tokens, position, blockTable, logitRows: tokens.length },
      ]);
      for (let row = 0; row < tokens.length; row++) {
        const start = row * rows.stride;
        out.data.set(
          rows.data.subarray(start, start + model.vocabSize),
          (position + row) * model.vocabSize,
        );
      }
    }
    named.set(`p${index}.logits`, out);
  });
  return named;
}
