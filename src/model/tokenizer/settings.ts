/**
 * @file The small parts of a tokenizer: normaliser, what is put around a sequence, and
 * `tokenizer_config.json`.
 */
import { z } from "zod";
import { modelError } from "../errors.ts";

/** Text before it is cut into pieces. */
export type Normalizer = (text: string) => string;

const unicodeForms = ["NFC", "NFD", "NFKC", "NFKD"] as const;

const normalizerSchema = z.union([
  z.object({ type: z.enum(unicodeForms) }),
  z.object({ type: z.literal("Sequence"), normalizers: z.array(z.unknown()) }),
]);

/** The normaliser that `json`, the `normalizer` of `tokenizer.json`, describes. */
export function normalizerOf(json: unknown): Normalizer {
  if (json === null || json === undefined) return (text) => text;
  const result = normalizerSchema.safeParse(json);
  if (!result.success) {
    const type = JSON.stringify((json as { type?: unknown }).type);
    throw invalid(
      "tokenizer.json",
      `normalizer of type ${type} is not supported; ${unicodeForms.join(", ")} and Sequence are`,
    );
  }
  const normalizer = result.data;
  if (normalizer.type !== "Sequence") return (text) => text.normalize(normalizer.type);
  const steps = normalizer.normalizers.map(normalizerOf);
  return (text) => steps.reduce((value, step) => step(value), text);
}

/** What `tokenizer_config.json` says that matters here. */
export interface TokenizerSettings {
  readonly bosToken: string | undefined;
  readonly eosToken: string | undefined;
  /** Whether sequences begin with `bosToken` and end with `eosToken`; undefined: not said. */
  readonly addBosToken: boolean | undefined;
  readonly addEosToken: boolean | undefined;
}

const tokenSchema = z
  .union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)])
  .nullish();

const configSchema = z.object({
  bos_token: tokenSchema,
  eos_token: tokenSchema,
  add_bos_token: z.boolean().nullish(),
  add_eos_token: z.boolean().nullish(),
});

/** The settings in a parsed `tokenizer_config.json`, or none where it is undefined. */
export function tokenizerConfigOf(json: unknown): TokenizerSettings {
  const result = configSchema.safeParse(json ?? {});
  if (!result.success) {
    const [issue] = result.error.issues;
    const field = issue.path.map(String).join(".") || "the file";
    throw invalid("tokenizer_config.json", `${field} can't be read (${issue.message})`);
  }
  const { bos_token, eos_token, add_bos_token, add_eos_token } = result.data;
  return {
    bosToken: bos_token ?? undefined,
    eosToken: eos_token ?? undefined,
    addBosToken: add_bos_token ?? undefined,
    addEosToken: add_eos_token ?? undefined,
  };
}

/** Ids before and after a sequence. */
export interface Framing {
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
}

const templateItemSchema = z.union([
  z.object({ SpecialToken: z.object({ id: z.string() }) }),
  z.object({ Sequence: z.unknown() }),
]);

const postProcessorSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("ByteLevel") }),
  z.object({ type: z.literal("TemplateProcessing"), single: z.array(templateItemSchema) }),
  z.object({ type: z.literal("Sequence"), processors: z.array(z.unknown()) }),
]);

/**
 * What is put around a sequence: by the `post_processor` of `tokenizer.json`, and, where
 * `tokenizer_config.json` states them, by `add_bos_token` and `add_eos_token` in its stead.
 */
export function framingOf(
  json: unknown,
  settings: TokenizerSettings,
  idOf: (content: string) => number | undefined,
): Framing {
  const { prefix, suffix } = templateOf(json, idOf);
  const added = (name: string, token: string | undefined): number[] => {
    const id = token === undefined ? undefined : idOf(token);
    if (id !== undefined) return [id];
    const shown = JSON.stringify(token) ?? "no token";
    throw invalid(
      "tokenizer_config.json",
      `${name} is true, but ${shown} is not in the vocabulary`,
    );
  };
  const either = (flag: boolean | undefined, ids: readonly number[], make: () => number[]) =>
    flag === undefined ? ids : flag ? make() : [];
  return {
    prefix: either(settings.addBosToken, prefix, () => added("add_bos_token", settings.bosToken)),
    suffix: either(settings.addEosToken, suffix, () => added("add_eos_token", settings.eosToken)),
  };
}

function templateOf(json: unknown, idOf: (content: string) => number | undefined): Framing {
  const nothing: Framing = { prefix: [], suffix: [] };
  if (json === null || json === undefined) return nothing;
  const result = postProcessorSchema.safeParse(json);
  if (!result.success) {
    const type = JSON.stringify((json as { type?: unknown }).type);
    throw invalid(
      "tokenizer.json",
      `post_processor of type ${type} is not supported; ` +
        "ByteLevel, TemplateProcessing and Sequence are",
    );
  }
  const processor = result.data;
  if (processor.type === "ByteLevel") return nothing;
  if (processor.type === "Sequence") {
    // Each frames what the ones before it framed.
    return processor.processors
      .map((each) => templateOf(each, idOf))
      .reduce(
        (inner, outer) => ({
          prefix: [...outer.prefix, ...inner.prefix],
          suffix: [...inner.suffix, ...outer.suffix],
        }),
        nothing,
      );
  }
  const middle = processor.single.findIndex((item) => "Sequence" in item);
  const ids = processor.single.map((item) => {
    if (!("SpecialToken" in item)) return -1;
    const id = idOf(item.SpecialToken.id);
    if (id !== undefined) return id;
    const token = JSON.stringify(item.SpecialToken.id);
    throw invalid("tokenizer.json", `post_processor adds ${token}, which is not in the vocabulary`);
  });
  return { prefix: ids.slice(0, middle), suffix: ids.slice(middle + 1) };
}

function invalid(file: string, what: string): Error {
  return modelError("tokenizer-invalid", `${file}: ${what}. Give a byte-level BPE tokenizer.`);
}
