/** @file A model directory, loaded to be served: engine, tokenizer, chat template, defaults. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BaleenError } from "../../base/index.ts";
import { ChatTemplate, encodeChat, Tokenizer } from "../../model/index.ts";
import type { StartOptions } from "../protocol.ts";
import { startEngine } from "../service.ts";
import type { Served } from "./options.ts";
import { type SamplingDefaults, samplingDefaults } from "./sampling.ts";

/** What a directory gives to a server. */
export interface LoadedModel extends Served {
  readonly tokenizer: Tokenizer;
  readonly defaults: SamplingDefaults;
}

/**
 * The model of `options.modelDir` behind an engine, ready for `startServer`. The small files are
 * read first, so that their faults show before the weights are loaded.
 * Raises the errors of `model` and of `startEngine`.
 */
export async function loadServed(
  options: StartOptions & { readonly modelDir: string },
): Promise<LoadedModel> {
  const { modelDir } = options;
  const defaults = defaultsOf(modelDir);
  const tokenizer = Tokenizer.fromDirectory(modelDir);
  const template = ChatTemplate.find(modelDir);
  const engine = await startEngine(options);
  return {
    engine,
    tokenizer,
    defaults,
    encodeChat: template && ((messages) => encodeChat(tokenizer, template, messages)),
  };
}

function defaultsOf(modelDir: string): SamplingDefaults {
  const path = join(modelDir, "generation_config.json");
  if (!existsSync(path)) return {};
  try {
    return samplingDefaults(JSON.parse(readFileSync(path, "utf8")));
  } catch (cause) {
    const message = `${path} can't be read as JSON: correct or remove it.`;
    throw new BaleenError("config-invalid", message, { cause });
  }
}
