/**
 * @file Fields that this server does not implement. Those that would change the answer are refused
 * unless they hold a neutral value; hints that change nothing are accepted; a field nobody knows is
 * accepted too, unless it looks like a known one mistyped.
 */
import { nearestName } from "../../base/index.ts";
import { invalid } from "./errors.ts";
import { show } from "./validate.ts";

/** Fields that would change the answer, with the values that ask for nothing. */
const refused: Readonly<Record<string, readonly unknown[]>> = {
  // OpenAI.
  tools: [[]],
  tool_choice: ["none", "auto"],
  functions: [[]],
  function_call: ["none", "auto"],
  response_format: [{ type: "text" }],
  modalities: [["text"]],
  audio: [],
  prediction: [],
  web_search_options: [],
  echo: [false],
  suffix: [""],
  best_of: [1],
  // DeepSeek.
  thinking: [{ type: "disabled" }],
  // vLLM and SGLang.
  guided_json: [],
  guided_regex: [],
  guided_choice: [],
  guided_grammar: [],
  structured_outputs: [],
  json_schema: [],
  regex: [],
  ebnf: [],
  min_tokens: [0],
  prompt_logprobs: [],
  use_beam_search: [false],
  length_penalty: [1],
  bad_words: [[]],
  allowed_token_ids: [],
  truncate_prompt_tokens: [],
  chat_template: [],
  chat_template_kwargs: [{}],
  add_generation_prompt: [true],
  continue_final_message: [false],
  skip_special_tokens: [true],
  include_stop_str_in_output: [false],
  top_a: [0],
  typical_p: [1],
};

/** Fields of a message that would change its meaning. */
const refusedInMessage: Readonly<Record<string, readonly unknown[]>> = {
  tool_calls: [[]],
  tool_call_id: [],
  function_call: [],
  audio: [],
  prefix: [false],
};

/** Hints, bookkeeping and limits of other servers: the answer is the same without them. */
const harmless: readonly string[] = [
  "metadata",
  "store",
  "service_tier",
  "parallel_tool_calls",
  "prompt_cache_key",
  "prompt_cache_retention",
  "safety_identifier",
  "reasoning_effort",
  "verbosity",
  "moderation",
  "priority",
  "request_id",
];

/** Throws a 400 if `body` asks for something that is not there; `known` are the schema's fields. */
export function refuseUnsupported(
  body: Readonly<Record<string, unknown>>,
  known: Readonly<Record<string, unknown>>,
): void {
  for (const [name, value] of Object.entries(body)) {
    if (Object.hasOwn(known, name) || harmless.includes(name)) continue;
    if (Object.hasOwn(refused, name)) refuse(name, value, refused[name]);
    else refuseMistyped(name, known);
  }
  if (!Array.isArray(body.messages)) return;
  body.messages.forEach((message: unknown, index) => {
    if (message === null || typeof message !== "object") return;
    for (const [name, value] of Object.entries(message)) {
      if (!Object.hasOwn(refusedInMessage, name)) continue;
      refuse(`messages[${index}].${name}`, value, refusedInMessage[name]);
    }
  });
}

function refuse(param: string, value: unknown, neutral: readonly unknown[]): void {
  if (value === null || value === undefined) return;
  const text = JSON.stringify(value);
  if (neutral.some((one) => JSON.stringify(one) === text)) return;
  throw invalid(
    param,
    "unsupported_parameter",
    `${param} (${show(value)}) is not supported by this server. Leave it out.`,
  );
}

function refuseMistyped(name: string, known: Readonly<Record<string, unknown>>): void {
  const meant = nearestName(name, Object.keys(known));
  if (meant === undefined || name.length < 4) return;
  throw invalid(
    name.slice(0, 100),
    "unknown_parameter",
    `${name.slice(0, 100)} is no known field: did you mean ${meant}? Rename it or leave it out.`,
  );
}
