/**
 * @file `/metrics` in Prometheus' text format. Meanings follow what users of other engines chart;
 * times are seconds. Engine figures are read from its published stats when scraped.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { EngineStats } from "../types.ts";
import type { Admission } from "./admission.ts";

const firstTokenBuckets = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
];
const interTokenBuckets = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5,
];
const requestBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

/** One server's metrics. */
export class Metrics {
  /** Seconds from a request's arrival to its first token, per choice. */
  readonly timeToFirstToken: Histogram;
  /** Seconds between two events of a choice. */
  readonly interToken: Histogram;
  /** Seconds from a request's arrival to its answer's end, per choice. */
  readonly endToEnd: Histogram;
  /** Seconds from a request's arrival to its first step in the engine, per choice. */
  readonly queueTime: Histogram;
  /** Requests whose client left, or that were cut off. */
  readonly aborted: Counter;
  /** HTTP responses by route and status. */
  readonly responses: Counter<"route" | "status">;
  /** Requests refused with 429, 401 or 503, by error code. */
  readonly rejected: Counter<"reason">;
  private readonly registry = new Registry();

  constructor(admission: Admission, stats: () => EngineStats | undefined) {
    const registers = [this.registry];
    const histogram = (name: string, help: string, buckets: number[]): Histogram =>
      new Histogram({ name: `baleen_${name}`, help, buckets, registers });
    this.timeToFirstToken = histogram(
      "time_to_first_token_seconds",
      "From a request's arrival to its first token.",
      firstTokenBuckets,
    );
    this.interToken = histogram(
      "inter_token_latency_seconds",
      "Between two events of an answer.",
      interTokenBuckets,
    );
    this.endToEnd = histogram(
      "e2e_request_latency_seconds",
      "From a request's arrival to the end of its answer.",
      requestBuckets,
    );
    this.queueTime = histogram(
      "request_queue_time_seconds",
      "From a request's arrival to its first step, per choice.",
      requestBuckets,
    );
    this.aborted = new Counter({
      name: "baleen_requests_aborted_total",
      help: "Requests whose client left or that were cut off.",
      registers,
    });
    this.responses = new Counter({
      name: "baleen_http_responses_total",
      help: "HTTP responses by route and status.",
      labelNames: ["route", "status"],
      registers,
    });
    this.rejected = new Counter({
      name: "baleen_admission_rejections_total",
      help: "Requests turned away, by error code.",
      labelNames: ["reason"],
      registers,
    });
    addEngineMetrics(this.registry, admission, stats);
    this.stats = stats;
  }

  private readonly stats: () => EngineStats | undefined;

  /** The whole page in Prometheus' text format. */
  async text(): Promise<string> {
    const stats = this.stats();
    return (await this.registry.metrics()) + (stats ? expertText(stats.expertLoad) : "");
  }
}

/** The `content-type` of `Metrics.text`. */
export const metricsContentType: string = Registry.PROMETHEUS_CONTENT_TYPE;

type Read = (stats: EngineStats) => number;

const gauges: readonly (readonly [name: string, help: string, read: Read])[] = [
  ["requests_running", "Sequences in the engine's batch.", (s) => s.running],
  ["kv_blocks_total", "Blocks of the KV cache, 64 tokens each.", (s) => s.blocksTotal],
  ["kv_blocks_used", "Blocks that live sequences hold.", (s) => s.blocksUsed],
  ["kv_blocks_cached", "Blocks kept for the prefix cache only.", (s) => s.blocksCached],
  ["kv_use_ratio", "Share of the blocks that live sequences hold.", kvUse],
];

const counters: readonly (readonly [name: string, help: string, read: Read])[] = [
  ["prompt_tokens_total", "Prompt tokens, cached ones too.", (s) => s.promptTokens],
  ["cached_prompt_tokens_total", "Prompt tokens from the prefix cache.", cachedTokens],
  ["generation_tokens_total", "Generated tokens.", (s) => s.generatedTokens],
  ["preemptions_total", "Sequences put back to wait for blocks.", (s) => s.preemptions],
  ["spec_drafted_tokens_total", "Tokens drafted by the MTP layer.", (s) => s.draftedTokens],
  ["spec_accepted_tokens_total", "Drafted tokens accepted.", (s) => s.acceptedTokens],
  ["engine_steps_total", "Forward passes.", (s) => s.steps],
  ["engine_busy_seconds_total", "Time spent in them.", (s) => s.busyMs / 1000],
];

function kvUse(stats: EngineStats): number {
  return stats.blocksTotal === 0 ? 0 : stats.blocksUsed / stats.blocksTotal;
}

function cachedTokens(stats: EngineStats): number {
  return stats.cachedPromptTokens;
}

function addEngineMetrics(
  registry: Registry,
  admission: Admission,
  latest: () => EngineStats | undefined,
): void {
  const registers = [registry];
  for (const [name, help, read] of gauges) {
    new Gauge({
      name: `baleen_${name}`,
      help,
      registers,
      collect() {
        const stats = latest();
        this.set(stats ? read(stats) : 0);
      },
    });
  }
  new Gauge({
    name: "baleen_requests_waiting",
    help: "Sequences that wait, for admission or in the engine.",
    registers,
    collect() {
      this.set(admission.waiting + (latest()?.waiting ?? 0));
    },
  });
  for (const [name, help, read] of counters) {
    new Counter({
      name: `baleen_${name}`,
      help,
      registers,
      collect() {
        const stats = latest();
        this.reset();
        this.inc(stats ? read(stats) : 0);
      },
    });
  }
  new Counter({
    name: "baleen_requests_finished_total",
    help: "Answers by the reason they ended.",
    labelNames: ["reason"],
    registers,
    collect() {
      this.reset();
      for (const [reason, count] of Object.entries(latest()?.finished ?? {})) {
        this.inc({ reason }, count);
      }
    },
  });
}

/** Expert load by layer and expert: written out by hand, as there may be tens of thousands. */
function expertText(load: EngineStats["expertLoad"]): string {
  if (load.layers === 0 || load.experts === 0) return "";
  const lines = [
    "# HELP baleen_expert_tokens_total Tokens routed to an expert.",
    "# TYPE baleen_expert_tokens_total counter",
  ];
  const balance: string[] = [];
  for (let layer = 0; layer < load.layers; layer++) {
    let [sum, max] = [0, 0];
    for (let expert = 0; expert < load.experts; expert++) {
      const count = load.counts[layer * load.experts + expert];
      sum += count;
      max = Math.max(max, count);
      lines.push(`baleen_expert_tokens_total{layer="${layer}",expert="${expert}"} ${count}`);
    }
    const balancedness = max === 0 ? 1 : sum / load.experts / max;
    balance.push(`baleen_expert_balancedness{layer="${layer}"} ${balancedness}`);
  }
  lines.push(
    "# HELP baleen_expert_balancedness Mean over maximum of the experts' tokens; 1 is even.",
    "# TYPE baleen_expert_balancedness gauge",
    ...balance,
  );
  return `\n${lines.join("\n")}\n`;
}
