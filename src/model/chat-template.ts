/**
 * @file The chat template of a checkpoint: messages to the prompt that the model was trained on.
 * Source: huggingface.co/docs/transformers, "Chat templates": where they lie and what they see.
 */
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import { z } from "zod";
import { modelError } from "./errors.ts";
import { readJsonFile, readTextFile } from "./json-file.ts";
import type { Tokenizer } from "./tokenizer/tokenizer.ts";

/** One message, as templates see it; beside role and content they may look at any field. */
export interface ChatMessage {
  readonly role: string;
  /** Text, parts with texts, or null (an assistant that only calls tools). */
  readonly content?: string | null | readonly { readonly text?: string }[];
  /** `tool_calls`, `name`, `reasoning_content` and the like. */
  readonly [field: string]: unknown;
}

/** What a rendering depends on beside its messages. */
export interface RenderOptions {
  /** Tools that the model may call, as OpenAI's API spells them. */
  readonly tools?: readonly unknown[] | undefined;
  /** End with what opens the assistant's answer; true unless told otherwise. */
  readonly addGenerationPrompt?: boolean | undefined;
  /** More variables for the template, such as `thinking` of DeepSeek-V3.1. */
  readonly variables?: Readonly<Record<string, unknown>> | undefined;
  /**
   * Applied to what users and tools say, before it is put between the template's marks:
   * `Tokenizer.escape`, so that it can't spell them.
   */
  readonly escape?: ((text: string) => string) | undefined;
}

const specialTokens = ["bos_token", "eos_token", "pad_token", "unk_token"] as const;

const tokenSchema = z
  .union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)])
  .nullish();

const configSchema = z.object({
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish(),
  ...Object.fromEntries(specialTokens.map((name) => [name, tokenSchema])),
});

/** A checkpoint's chat template, or its templates. */
export class ChatTemplate {
  private readonly templates = new Map<string, Template>();
  private readonly tokens: Readonly<Record<string, string>>;

  /**
   * `templates` by name (`default`, and `tool_use` where there is one for tools); `tokens` are the
   * variables `bos_token`, `eos_token`. Raises `chat-template-failed` for one that can't be parsed.
   */
  constructor(
    templates: Readonly<Record<string, string>>,
    tokens: Readonly<Record<string, string>> = {},
  ) {
    for (const [name, source] of Object.entries(templates)) {
      this.templates.set(name, parse(name, source));
    }
    this.tokens = tokens;
  }

  /**
   * The chat template of the Hugging Face directory `dir`: `chat_template.jinja`, else the one in
   * `tokenizer_config.json`; undefined where there is none.
   */
  static find(dir: string): ChatTemplate | undefined {
    const path = join(dir, "tokenizer_config.json");
    const result = configSchema.safeParse(readJsonFile(path, "chat-template-failed") ?? {});
    if (!result.success) {
      const [issue] = result.error.issues;
      const message = `${path}: ${issue.path.join(".")} can't be read (${issue.message}).`;
      throw modelError("chat-template-failed", `${message} Correct the file.`);
    }
    const { chat_template: inConfig, ...rest } = result.data;
    const tokens = Object.fromEntries(
      Object.entries(rest).filter((entry): entry is [string, string] => !!entry[1]),
    );
    const file = readTextFile(join(dir, "chat_template.jinja"), "chat-template-failed");
    if (file !== undefined) return new ChatTemplate({ default: file }, tokens);
    if (typeof inConfig === "string") return new ChatTemplate({ default: inConfig }, tokens);
    if (!inConfig || inConfig.length === 0) return undefined;
    const named = inConfig.map(({ name, template }) => [name, template]);
    return new ChatTemplate(Object.fromEntries(named), tokens);
  }

  /** The chat template of `dir`, as `find` has it; raises `chat-template-missing` without one. */
  static fromDirectory(dir: string): ChatTemplate {
    const found = ChatTemplate.find(dir);
    if (found) return found;
    throw modelError(
      "chat-template-missing",
      `${dir} has no chat template (chat_template.jinja, or one in tokenizer_config.json). ` +
        "Send plain text instead of messages, or add a template.",
    );
  }

  /**
   * The prompt for `messages`. Raises `chat-template-failed` where the template refuses them, with
   * its own words, or fails.
   */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    const { tools, escape: mark } = options;
    const name = tools && this.templates.has("tool_use") ? "tool_use" : "default";
    const template = this.templates.get(name);
    if (!template) {
      const names = [...this.templates.keys()].join(", ");
      const message = `the model has chat templates (${names}), but none is named ${name}.`;
      throw modelError("chat-template-failed", `${message} Name one of them so.`);
    }
    try {
      return template.render({
        ...this.tokens,
        documents: null,
        ...options.variables,
        messages: mark ? messages.map((message) => marked(message, mark)) : messages,
        tools: tools ?? null,
        add_generation_prompt: options.addGenerationPrompt ?? true,
      });
    } catch (cause) {
      throw failed("refuses these messages", "Change their roles, order or contents", cause);
    }
  }
}

/**
 * The ids of the prompt for `messages`: the template's marks become special tokens, the same marks
 * spelt out by users and tools stay plain text.
 */
export function encodeChat(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: Omit<RenderOptions, "escape"> = {},
): number[] {
  const prompt = template.render(messages, { ...options, escape: tokenizer.escape });
  return tokenizer.encode(prompt, { allowSpecial: true });
}

/** `message` with its text marked, unless it is the assistant's or the operator's. */
function marked(message: ChatMessage, mark: (text: string) => string): ChatMessage {
  const { role, content } = message;
  if (role === "assistant" || role === "system" || role === "developer") return message;
  if (typeof content === "string") return { ...message, content: mark(content) };
  if (!Array.isArray(content)) return message;
  const parts = content as readonly { readonly text?: string }[];
  return {
    ...message,
    content: parts.map((part) =>
      typeof part.text === "string" ? { ...part, text: mark(part.text) } : part,
    ),
  };
}

function parse(name: string, source: string): Template {
  try {
    return new Template(source);
  } catch (cause) {
    throw failed(`(${name}) can't be parsed`, "Correct it or use another checkpoint", cause);
  }
}

function failed(what: string, next: string, cause: unknown): Error {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return modelError(
    "chat-template-failed",
    `the model's chat template ${what}: ${reason.replace(/\.$/, "")}. ${next}.`,
    cause,
  );
}
