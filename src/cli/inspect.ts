/** @file `baleen inspect`: what a model directory holds, and how it would run here. */
import { formatBytes, formatCount } from "../base/index.ts";
import { openDevice } from "../device/index.ts";
import {
  isMoeLayer,
  type ModelConfig,
  openCheckpoint,
  readModelConfig,
  Tokenizer,
} from "../model/index.ts";
import { bytesPerElement, openSafetensors, type Safetensors } from "../tensor/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { modelDirectory, modelFlags } from "./engine-flags.ts";

/** Prints architecture, parameters, bytes by dtype, cache size, tokenizer and what would serve. */
export const inspect: Command = defineCommand({
  name: "inspect",
  summary: "Show what a model directory holds, and how it would run here.",
  flags: {
    model: modelFlags.model,
    rung: modelFlags.rung,
    threads: modelFlags.threads,
    "kv-dtype": modelFlags["kv-dtype"],
    json: { type: "switch", help: "Print JSON." },
  },
  operands: "[DIR]",
  async run({ flags, operands }) {
    const directory = modelDirectory(operands[0] ?? flags.model);
    const config = readModelConfig(directory);
    const file = openSafetensors(directory);
    const { hasMtp } = openCheckpoint(directory, config);
    const report = {
      directory,
      config,
      parameters: countParameters(file, config),
      bytesByDtype: bytesByDtype(file),
      hasMtp,
      cacheBytesPerToken: cacheBytesPerToken(config, hasMtp, flags["kv-dtype"]),
      device: deviceLine(flags),
      tokenizer: tokenizerLine(directory),
    };
    console.log(flags.json ? JSON.stringify(report, undefined, 2) : render(report));
  },
});

interface Report {
  readonly directory: string;
  readonly config: ModelConfig;
  readonly parameters: Readonly<Record<Part | "total" | "active", number>>;
  readonly bytesByDtype: Readonly<Record<string, number>>;
  readonly hasMtp: boolean;
  readonly cacheBytesPerToken: number;
  readonly device: string;
  readonly tokenizer: string;
}

/** Where a parameter belongs. */
type Part =
  | "embedding"
  | "head"
  | "attention"
  | "denseMlp"
  | "routedExperts"
  | "sharedExperts"
  | "gate"
  | "norms"
  | "mtp";

function partOf(name: string, config: ModelConfig): Part | undefined {
  if (name.endsWith("weight_scale_inv")) return undefined;
  const layer = /^model\.layers\.(\d+)\./.exec(name)?.[1];
  if (layer !== undefined && Number(layer) >= config.numHiddenLayers) return "mtp";
  if (name.includes("embed_tokens")) return "embedding";
  if (name.startsWith("lm_head")) return "head";
  if (name.includes("norm")) return "norms";
  if (name.includes(".self_attn.")) return "attention";
  if (name.includes(".mlp.shared_experts.")) return "sharedExperts";
  if (name.includes(".mlp.experts.")) return "routedExperts";
  if (name.includes(".mlp.gate.")) return "gate";
  return "denseMlp";
}

/** Counts by part; "active" are those that one token meets, MTP and embedding table left out. */
function countParameters(file: Safetensors, config: ModelConfig): Report["parameters"] {
  const counts: Record<Part | "total" | "active", number> = {
    embedding: 0,
    head: 0,
    attention: 0,
    denseMlp: 0,
    routedExperts: 0,
    sharedExperts: 0,
    gate: 0,
    norms: 0,
    mtp: 0,
    total: 0,
    active: 0,
  };
  for (const { name, shape } of file.tensors.values()) {
    const part = partOf(name, config);
    if (part === undefined) continue;
    const count = shape.reduce((product, size) => product * size, 1);
    counts[part] += count;
    counts.total += count;
  }
  const share = config.nRoutedExperts === 0 ? 0 : config.numExpertsPerTok / config.nRoutedExperts;
  counts.active = counts.total - counts.mtp - counts.embedding - counts.routedExperts * (1 - share);
  return counts;
}

function bytesByDtype(file: Safetensors): Record<string, number> {
  const bytes: Record<string, number> = {};
  for (const { dtype, byteLength } of file.tensors.values()) {
    bytes[dtype] = (bytes[dtype] ?? 0) + byteLength;
  }
  return bytes;
}

/** The latent and the shared rotary key of every layer. */
function cacheBytesPerToken(config: ModelConfig, hasMtp: boolean, dtype: "f32" | "bf16"): number {
  const layers = config.numHiddenLayers + (hasMtp ? 1 : 0);
  return layers * (config.kvLoraRank + config.qkRopeHeadDim) * bytesPerElement[dtype];
}

function deviceLine(options: {
  readonly rung: "reference" | "x86" | undefined;
  readonly threads: number | undefined;
}): string {
  const device = openDevice(options);
  device.close();
  return device.description;
}

function tokenizerLine(directory: string): string {
  try {
    return `${Tokenizer.fromDirectory(directory).vocabSize} tokens`;
  } catch (error) {
    return `none that serves: ${(error as Error).message}`;
  }
}

const partNames: Readonly<Record<Part, string>> = {
  embedding: "embedding",
  attention: "attention",
  denseMlp: "dense MLPs",
  routedExperts: "routed experts",
  sharedExperts: "shared experts",
  gate: "gates",
  norms: "norms",
  head: "output head",
  mtp: "MTP layer",
};

function render(report: Report): string {
  const { config, parameters } = report;
  const layers = Array.from({ length: config.numHiddenLayers }, (_, layer) => layer);
  const moe = layers.filter((layer) => isMoeLayer(config, layer)).length;
  const experts =
    moe === 0
      ? "no experts"
      : `${config.nRoutedExperts} routed experts, ${config.numExpertsPerTok} a token, ` +
        `${config.nSharedExperts} shared; ${config.scoringFunc} gate, ${config.topkMethod}`;
  const dims = `${config.qkNopeHeadDim}+${config.qkRopeHeadDim}/${config.vHeadDim}`;
  const total = Object.values(report.bytesByDtype).reduce((sum, bytes) => sum + bytes, 0);
  const lines: [string, string][] = [
    ["directory", report.directory],
    ["architecture", `${config.modelType}, hidden size ${config.hiddenSize}`],
    ["layers", `${layers.length - moe} dense, ${moe} mixture-of-experts`],
    ["experts", experts],
    [
      "attention",
      `${config.numAttentionHeads} heads of ${dims}, latent ${config.kvLoraRank}` +
        (config.qLoraRank === undefined ? "" : `, query latent ${config.qLoraRank}`),
    ],
    ["context", `${config.maxPositionEmbeddings} tokens${config.rope.yarn ? " (YaRN)" : ""}`],
    ["MTP layer", report.hasMtp ? "yes: drafts tokens" : "none"],
    ["parameters", `${formatCount(parameters.total)}, ${formatCount(parameters.active)} active`],
  ];
  for (const [part, name] of Object.entries(partNames) as [Part, string][]) {
    if (parameters[part] > 0) lines.push([`  ${name}`, formatCount(parameters[part])]);
  }
  lines.push(["weights", formatBytes(total)]);
  for (const [dtype, bytes] of Object.entries(report.bytesByDtype)) {
    lines.push([`  ${dtype}`, formatBytes(bytes)]);
  }
  lines.push(
    ["KV cache", `${formatBytes(report.cacheBytesPerToken)} a token`],
    ["tokenizer", report.tokenizer],
    ["end tokens", config.eosTokenIds.join(", ") || "none: answers end at their length"],
    ["device", report.device],
  );
  const width = Math.max(...lines.map(([name]) => name.length));
  return lines.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
}
